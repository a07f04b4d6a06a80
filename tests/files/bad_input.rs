//! Paths and values that an operation can't use: each gives a typed error that names the path,
//! changes no file, and leaves the sandbox running.

use actix_sandbox::{
    BuiltinErrorKind::{self, *},
    FilePath, LocalServer, Sandbox, WriteMode,
    actor::Builtin,
    server::{Backend, GvisorOptions, NamespaceOptions},
};

use super::by_message::{assert_goes_on, link, list, names, perform, python, read, remove, write};
use crate::support::{backend::is, patient, sandbox, within};

/// An operation on a path.
type Operation = (&'static str, fn(FilePath) -> Builtin);

const OPERATIONS: [Operation; 17] = [
    ("read", |path| read(path)),
    ("replace", |path| write(path, WriteMode::Replace)),
    ("create", |path| write(path, WriteMode::Create)),
    ("append", |path| write(path, WriteMode::Append)),
    ("write at", |path| write(path, WriteMode::At(3))),
    ("list", |path| list(path, 3)),
    ("metadata", |path| Builtin::Metadata { path, follow: true }),
    ("create_dir", |path| Builtin::CreateDir { path }),
    ("remove", |path| remove(path, false)),
    ("remove all", |path| remove(path, true)),
    ("rename", |path| Builtin::Rename {
        path,
        to: "new".into(),
    }),
    ("rename to", |to| Builtin::Rename {
        path: "file".into(),
        to,
    }),
    ("copy", |path| Builtin::Copy {
        path,
        to: "new/copy".into(),
    }),
    ("copy to", |to| Builtin::Copy {
        path: "file".into(),
        to,
    }),
    ("set_permissions", |path| Builtin::SetPermissions {
        path,
        permissions: 0o600,
    }),
    ("hard link to", |target| link("new", target, false)),
    ("watch", |path| Builtin::Watch {
        path,
        recursive: true,
    }),
];

/// The operations that fail on a path, with the kind of the error. They leave all files unchanged.
struct Bad {
    path: &'static str,
    fails: &'static [(&'static str, BuiltinErrorKind)],
}

const BAD: [Bad; 9] = [
    Bad {
        path: "missing",
        fails: &[
            ("read", NotFound),
            ("list", NotFound),
            ("metadata", NotFound),
            ("remove", NotFound),
            ("remove all", NotFound),
            ("rename", NotFound),
            ("copy", NotFound),
            ("set_permissions", NotFound),
            ("hard link to", NotFound),
            ("watch", NotFound),
        ],
    },
    Bad {
        path: "missing/below",
        fails: &[
            ("read", NotFound),
            ("list", NotFound),
            ("metadata", NotFound),
            ("remove", NotFound),
            ("rename", NotFound),
            ("rename to", NotFound),
            ("copy", NotFound),
            ("set_permissions", NotFound),
            ("hard link to", NotFound),
            ("watch", NotFound),
        ],
    },
    Bad {
        path: "dir",
        fails: &[
            ("read", IsADirectory),
            ("replace", IsADirectory),
            ("create", IsADirectory),
            ("append", IsADirectory),
            ("write at", IsADirectory),
            ("remove", NotEmpty),
            ("rename to", IsADirectory),
            ("copy", IsADirectory),
            ("copy to", IsADirectory),
            ("hard link to", PermissionDenied),
        ],
    },
    Bad {
        path: "fifo",
        fails: &NOT_A_FILE,
    },
    Bad {
        path: "socket",
        fails: &NOT_A_FILE,
    },
    // The other operations would change the devices of the machine on the host backend.
    Bad {
        path: "/dev/zero",
        fails: &NOT_A_FILE,
    },
    Bad {
        path: "/dev/full",
        fails: &NOT_A_FILE,
    },
    Bad {
        path: "file/below",
        fails: &[
            ("read", NotADirectory),
            ("replace", NotADirectory),
            ("create", NotADirectory),
            ("append", NotADirectory),
            ("write at", NotADirectory),
            ("list", NotADirectory),
            ("metadata", NotADirectory),
            ("create_dir", NotADirectory),
            ("remove", NotADirectory),
            ("remove all", NotADirectory),
            ("rename", NotADirectory),
            ("rename to", NotADirectory),
            ("copy", NotADirectory),
            ("copy to", NotADirectory),
            ("set_permissions", NotADirectory),
            ("hard link to", NotADirectory),
            ("watch", NotADirectory),
        ],
    },
    // A symbolic link to itself.
    Bad {
        path: "loop",
        fails: &[
            ("read", Other),
            ("replace", Other),
            ("create", AlreadyExists),
            ("append", Other),
            ("write at", Other),
            ("list", Other),
            ("metadata", Other),
            ("create_dir", AlreadyExists),
            ("copy", Other),
            ("copy to", Other),
            ("set_permissions", Other),
            ("watch", Other),
        ],
    },
];

const NOT_A_FILE: [(&str, BuiltinErrorKind); 9] = [
    ("read", NotAFile),
    ("replace", NotAFile),
    ("create", AlreadyExists),
    ("append", NotAFile),
    ("write at", NotAFile),
    ("list", NotADirectory),
    ("create_dir", AlreadyExists),
    ("copy", NotAFile),
    ("copy to", NotAFile),
];

async fn prepared() -> (LocalServer, Sandbox) {
    let (server, sandbox) = sandbox().await;
    let code = "
import os, socket
os.mkdir('dir')
open('dir/inner', 'w').write('inner')
open('file', 'w').write('0123456789')
os.mkfifo('fifo')
socket.socket(socket.AF_UNIX).bind('socket')
os.symlink('loop', 'loop')";
    python(&sandbox, code).await;
    (server, sandbox)
}

/// Runs an operation that must fail with this kind. The error is about the path and names it.
/// Returns what is wrong.
async fn fails(
    sandbox: &Sandbox,
    builtin: Builtin,
    path: &FilePath,
    kind: BuiltinErrorKind,
) -> Option<String> {
    let label: String = format!("{builtin:?}").chars().take(200).collect();
    let error = match perform(sandbox, builtin, b"input").await {
        Err(error) => error,
        Ok((result, _)) => return Some(format!("{label} succeeded: {result}")),
    };
    let is_named = error.message.contains(&*path.to_string_lossy());
    let is_right = error.kind == kind && error.path.as_ref() == Some(path) && is_named;
    (!is_right).then(|| format!("{label}: expected {kind:?}, not {error:?}"))
}

async fn assert_fails(
    sandbox: &Sandbox,
    builtin: Builtin,
    path: &FilePath,
    kind: BuiltinErrorKind,
) {
    if let Some(wrong) = fails(sandbox, builtin, path, kind).await {
        panic!("{wrong}");
    }
}

#[actix::test]
async fn paths_that_do_not_fit_the_operation_give_typed_errors() {
    let (_server, sandbox) = prepared().await;
    let before = names(&sandbox).await;
    let mut wrong = Vec::new();
    for bad in BAD {
        let path = FilePath::from(bad.path);
        for (name, kind) in bad.fails {
            let (_, operation) = OPERATIONS.iter().find(|(it, _)| it == name).unwrap();
            wrong.extend(fails(&sandbox, operation(path.clone()), &path, *kind).await);
        }
        assert_eq!(names(&sandbox).await, before, "{path}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(sandbox.files().read("file").await.unwrap(), "0123456789");
    assert_eq!(sandbox.files().read("dir/inner").await.unwrap(), "inner");
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn paths_that_no_file_can_have_are_invalid_for_every_operation() {
    let (_server, sandbox) = prepared().await;
    let before = names(&sandbox).await;
    let long_name = "n".repeat(300);
    let long_path = "d/".repeat(2_499) + "ab";
    for path in ["", "a\0b", &long_name, &long_path] {
        for (name, operation) in OPERATIONS {
            // Without a path, these work on the home.
            if path.is_empty() && ["list", "metadata", "watch"].contains(&name) {
                continue;
            }
            let path = FilePath::from(path);
            assert_fails(&sandbox, operation(path.clone()), &path, InvalidInput).await;
        }
        assert_eq!(names(&sandbox).await, before, "{path:.20}");
    }
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn a_range_that_no_file_has_is_refused_or_empty() {
    let (_server, sandbox) = prepared().await;
    let files = sandbox.files();
    for (offset, length, content) in [
        (10, None, ""),
        (11, None, ""),
        (u64::MAX, None, ""),
        (1 << 63, Some(1), ""),
        (u64::MAX, Some(u64::MAX), ""),
        (7, Some(u64::MAX), "789"),
        (3, Some(0), ""),
    ] {
        let read = within("a read", files.read_range("file", offset, length)).await;
        let read = read.unwrap_or_else(|error| panic!("{offset} {length:?}: {error}"));
        assert_eq!(read, content, "{offset} {length:?}");
    }
    let path = FilePath::from("file");
    for offset in [1 << 63, u64::MAX, i64::MAX as u64] {
        let write = write("file", WriteMode::At(offset));
        assert_fails(&sandbox, write, &path, InvalidInput).await;
        let error = files.write_at("file", offset, "x").await.unwrap_err();
        assert_eq!(error.builtin().unwrap().kind, InvalidInput, "{error}");
    }
    assert_eq!(files.read("file").await.unwrap(), "0123456789");

    // No bytes at all.
    files.write("none", "").await.unwrap();
    files.append("none", "").await.unwrap();
    files.write_at("none", 5, "").await.unwrap();
    assert_eq!(files.copy("none", "copy").await.unwrap(), 0);
    assert_eq!(files.read("copy").await.unwrap(), "");
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn permissions_that_no_file_has_are_invalid() {
    let (_server, sandbox) = prepared().await;
    let before = names(&sandbox).await;
    let path = FilePath::from("file");
    for permissions in [0o10000, u32::MAX] {
        let change = Builtin::SetPermissions {
            path: path.clone(),
            permissions,
        };
        assert_fails(&sandbox, change, &path, InvalidInput).await;
        for mode in [WriteMode::Replace, WriteMode::Append, WriteMode::At(0)] {
            let write = Builtin::Write {
                path: path.clone(),
                mode,
                permissions: Some(permissions),
            };
            assert_fails(&sandbox, write, &path, InvalidInput).await;
        }
    }
    assert_eq!(names(&sandbox).await, before);
    assert_eq!(sandbox.files().read("file").await.unwrap(), "0123456789");
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn directories_that_must_stay_are_not_removed() {
    let (_server, sandbox) = prepared().await;
    let before = names(&sandbox).await;
    for path in [".", "..", "/", "dir/.", "dir/..", "./", "//", "dir/../."] {
        let path = FilePath::from(path);
        for recursive in [false, true] {
            let remove = remove(path.clone(), recursive);
            assert_fails(&sandbox, remove, &path, InvalidInput).await;
        }
    }
    // The home by its own name.
    let home = python(&sandbox, "import os; print(os.getcwd(), end='')").await;
    let home = FilePath::from(home);
    assert_fails(&sandbox, remove(home.clone(), true), &home, InvalidInput).await;
    assert_eq!(names(&sandbox).await, before);
    assert_goes_on(&sandbox).await;
}

/// On the host backend, root can read and write every file.
#[actix::test]
async fn files_that_code_may_not_use_are_denied_to_operations() {
    if !is("namespace") && !is("gvisor") {
        return;
    }
    let (_server, sandbox) = prepared().await;
    let code = "
import os
open('closed', 'w').write('1')
os.chmod('closed', 0)
os.mkdir('locked')
open('locked/inner', 'w').write('1')
os.chmod('locked', 0)";
    python(&sandbox, code).await;
    let before = names(&sandbox).await;
    let mut wrong = Vec::new();
    for (path, denied) in [
        ("closed", &["read", "append", "write at", "copy"][..]),
        ("locked", &["list", "remove all"]),
        (
            "locked/inner",
            &[
                "read",
                "replace",
                "create",
                "append",
                "metadata",
                "remove",
                "rename",
                "rename to",
                "copy",
                "copy to",
                "set_permissions",
                "watch",
            ],
        ),
        ("/etc/new", &["replace", "create", "append", "create_dir"]),
        ("/etc/passwd", &["append", "write at", "replace", "remove"]),
    ] {
        let path = FilePath::from(path);
        for name in denied {
            let (_, operation) = OPERATIONS.iter().find(|(it, _)| it == name).unwrap();
            let kind = PermissionDenied;
            wrong.extend(fails(&sandbox, operation(path.clone()), &path, kind).await);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(names(&sandbox).await, before);
    assert_goes_on(&sandbox).await;
}

#[actix::test]
async fn a_write_beyond_the_largest_size_of_a_file_is_too_large() {
    const LIMIT: u64 = 1 << 20;
    let backend = match (is("namespace"), is("gvisor")) {
        (true, _) => Backend::Namespace(NamespaceOptions::default().file_size(LIMIT)),
        (_, true) => Backend::Gvisor(GvisorOptions::default().file_size(LIMIT)),
        // The host backend has no limit.
        _ => return,
    };
    let server = LocalServer::builder().backend(backend).start().await;
    let server = server.unwrap();
    let sandbox = patient(server.url()).await.unwrap();
    let files = sandbox.files();
    files.write("file", vec![1; LIMIT as usize]).await.unwrap();
    let large = vec![2; LIMIT as usize + 1];
    let error = files.write("file", large.clone()).await.unwrap_err();
    assert_eq!(error.builtin().unwrap().kind, TooLarge, "{error}");
    let error = files.write("d/e/new", large).await.unwrap_err();
    assert_eq!(error.builtin().unwrap().kind, TooLarge, "{error}");
    assert!(error.to_string().contains("d/e/new"), "{error}");
    let error = files.append("file", "more").await.unwrap_err();
    assert_eq!(error.builtin().unwrap().kind, TooLarge, "{error}");
    assert!(
        error.to_string().contains("0 bytes were written"),
        "{error}"
    );
    let error = files.write_at("file", LIMIT - 2, "more").await.unwrap_err();
    assert_eq!(error.builtin().unwrap().kind, TooLarge, "{error}");
    assert!(
        error.to_string().contains("2 bytes were written"),
        "{error}"
    );
    assert_eq!(names(&sandbox).await, ["file"]);
    assert_eq!(files.metadata("file").await.unwrap().size, LIMIT);
    assert_goes_on(&sandbox).await;
}

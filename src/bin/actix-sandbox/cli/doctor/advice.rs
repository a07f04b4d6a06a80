//! What to install or change, so that a backend works.

#[cfg(target_os = "linux")]
use std::{fs, path::Path};

use super::report::Program;

const FOR_HOST: &str = "the `PATH` of the server must contain the usual programs, such as `true`, \
                        `bash` and `python3`";

/// How to make a backend work that does not. `program` is its program, if that is installed.
#[cfg(target_os = "linux")]
pub(super) fn for_backend(backend: &str, program: Option<&Program>) -> Vec<String> {
    let is_root = nix::unistd::geteuid().is_root();
    let mut advice = match backend {
        "gvisor" => for_gvisor(program, is_root),
        "namespace" => for_namespace(program, is_root),
        _ => return vec![FOR_HOST.to_owned()],
    };
    // Less likely causes, if none of the above is to blame.
    if advice.is_empty() && is_container() {
        advice.push(
            "this is a container: its runtime must allow namespaces and mounts, for example \
             `docker run --privileged`"
                .to_owned(),
        );
    }
    if advice.is_empty() && backend == "gvisor" {
        advice.push(
            "another platform of `runsc` may work: try `actix-sandbox serve --backend gvisor \
             --platform ptrace`"
                .to_owned(),
        );
    }
    advice
}

#[cfg(not(target_os = "linux"))]
pub(super) fn for_backend(backend: &str, _: Option<&Program>) -> Vec<String> {
    match backend {
        "host" => vec![FOR_HOST.to_owned()],
        _ => vec!["run the server on Linux".to_owned()],
    }
}

#[cfg(target_os = "linux")]
fn is_container() -> bool {
    let files = ["/.dockerenv", "/run/.containerenv"];
    files.iter().any(|file| Path::new(file).exists())
}

#[cfg(target_os = "linux")]
fn for_gvisor(program: Option<&Program>, is_root: bool) -> Vec<String> {
    let mut advice = Vec::new();
    if program.is_none() {
        advice.push(
            "install gVisor: the package `runsc` (Debian, Ubuntu), or see \
             https://gvisor.dev/docs/user_guide/install/ (other distributions, such as Fedora)"
                .to_owned(),
        );
    }
    if !is_root {
        advice.push("run the server as root".to_owned());
    }
    advice
}

/// The first release of bubblewrap with the options that the server uses.
#[cfg(target_os = "linux")]
const LEAST_BUBBLEWRAP: (u32, u32) = (0, 8);

#[cfg(target_os = "linux")]
fn for_namespace(program: Option<&Program>, is_root: bool) -> Vec<String> {
    let mut advice = Vec::new();
    match program {
        None => advice.push("install the package `bubblewrap` (Debian, Ubuntu, Fedora)".to_owned()),
        Some(program) if is_older(program.version.as_deref(), LEAST_BUBBLEWRAP) => {
            let (major, minor) = LEAST_BUBBLEWRAP;
            advice.push(format!("install bubblewrap {major}.{minor} or newer"));
        }
        Some(_) => {}
    }
    let is = |setting: &str, value: &str| {
        let file = format!("/proc/sys/{}", setting.replace('.', "/"));
        fs::read_to_string(file).is_ok_and(|text| text.trim() == value)
    };
    if is("user.max_user_namespaces", "0") {
        advice.push(
            "allow user namespaces: `sysctl -w user.max_user_namespaces=10000` as root".to_owned(),
        );
    }
    // These two apply to users without privileges.
    if !is_root && is("kernel.unprivileged_userns_clone", "0") {
        advice.push(
            "let users create user namespaces: `sysctl -w kernel.unprivileged_userns_clone=1` as \
             root"
                .to_owned(),
        );
    }
    if !is_root && is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        advice.push(
            "AppArmor restricts user namespaces (the default of Ubuntu 24.04 and newer): load a \
             profile that allows them to bubblewrap, `profile bwrap /usr/bin/bwrap \
             flags=(unconfined) { userns, }`, or allow them to all programs, `sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0` as root"
                .to_owned(),
        );
    }
    advice
}

/// Whether a version such as `0.8.0` is older than `least`. An unknown version is not.
#[cfg(target_os = "linux")]
fn is_older(version: Option<&str>, least: (u32, u32)) -> bool {
    let parse = |version: &str| {
        let mut numbers = version.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    version
        .and_then(parse)
        .is_some_and(|version| version < least)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_version_is_older() {
        for (version, is_old) in [
            (Some("0.6.3"), true),
            (Some("0.8.0"), false),
            (Some("0.11.0"), false),
            (Some("1.0"), false),
            (Some("unknown"), false),
            (None, false),
        ] {
            assert_eq!(is_older(version, (0, 8)), is_old, "{version:?}");
        }
    }

    #[test]
    fn a_missing_program_is_advised_first() {
        let gvisor = for_gvisor(None, false);
        assert!(gvisor[0].contains("`runsc`"), "{gvisor:?}");
        assert!(gvisor[1].contains("as root"), "{gvisor:?}");
        let namespace = for_namespace(None, true);
        assert!(namespace[0].contains("`bubblewrap`"), "{namespace:?}");
    }
}

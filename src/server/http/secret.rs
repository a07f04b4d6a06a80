//! What callers must show: the [`Secret`], which is the first segment of the server's URL, and the
//! [`AccessToken`]. Requests without the secret are answered 404.
//!
//! The secret is generated at start, given by the user, read from a file, or stored in the state
//! and shared by the servers that use it.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::server::{error::ServerError, identity::random_hex, private, store::storage::Storage};

/// Minimum length of a secret, in characters: 128 bits in base64.
const MIN_LENGTH: usize = 22;

/// Maximum length of a secret, in characters.
const MAX_LENGTH: usize = 128;

/// The name of the secret in the state directory or bucket.
const SHARED_NAME: &str = "server/secret";

/// Where the server takes its secret from.
#[derive(Clone, Debug, Default)]
pub(crate) enum SecretSource {
    /// Generated at start. With a state directory or bucket, it is stored there and reused.
    #[default]
    Generated,
    /// Given by the user.
    Given(SecretString),
    /// A file, which is created if it is missing.
    File(PathBuf),
    /// The server has no secret.
    Disabled,
}

impl SecretSource {
    /// Loads, creates or generates the secret. `None` if the server has no secret. `state` is the
    /// storage that the server shares with others, if it has one. Blocking.
    pub(crate) fn resolve(
        &self,
        state: Option<&dyn Storage>,
    ) -> Result<Option<Secret>, ServerError> {
        let (secret, place) = match (self, state) {
            (Self::Disabled, _) => return Ok(None),
            (Self::Given(text), _) => (Secret::parse(text.expose_secret()), "given".to_owned()),
            (Self::File(path), _) => (
                Secret::from_file(path),
                format!("in the file {}", path.display()),
            ),
            (Self::Generated, Some(state)) => (Secret::shared(state), "in the state".to_owned()),
            (Self::Generated, None) => (Secret::generate(), "generated".to_owned()),
        };
        secret
            .map(Some)
            .map_err(|source| ServerError::Secret { place, source })
    }
}

/// The first segment of the server's URL.
#[derive(Clone, Debug)]
pub(crate) struct Secret(SecretString);

impl Secret {
    /// 128 bits from the operating system, as hexadecimal digits.
    fn generate() -> io::Result<Self> {
        Ok(Self(SecretString::from(random_hex::<16>()?)))
    }

    /// Checks the length and that the text needs no escaping in a URL.
    fn parse(text: &str) -> io::Result<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        match (MIN_LENGTH..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(is_allowed) {
            true => Ok(Self(SecretString::from(text))),
            false => Err(invalid(format!(
                "expected {MIN_LENGTH} to {MAX_LENGTH} letters, digits, '-' and '_'; \
                 `head -c 24 /dev/urandom | base64 | tr +/ -_` generates one"
            ))),
        }
    }

    /// Reads the secret from a file. Creates the file with mode 0600 if it is missing. Fails if
    /// other users can read or replace it.
    fn from_file(path: &Path) -> io::Result<Self> {
        private::check_place(path)?;
        if let Err(error) = fs::symlink_metadata(path) {
            match error.kind() {
                io::ErrorKind::NotFound => create(path, &Self::generate()?)?,
                _ => return Err(error),
            }
        }
        let file = private::open(path)?;
        let opened = file.metadata()?;
        if opened.uid() != nix::unistd::geteuid().as_raw() {
            return Err(invalid(format!(
                "it belongs to another user (uid {}): `chown` it to the user of the server",
                opened.uid()
            )));
        }
        let mode = opened.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(invalid(format!(
                "other users may open it (mode {mode:04o}): they may know the secret, so generate \
                 another one in a file with mode 0600"
            )));
        }
        let mut text = String::new();
        let longest = MAX_LENGTH as u64 + 2;
        file.take(longest).read_to_string(&mut text)?;
        Self::parse(text.trim_end_matches(['\r', '\n']))
    }

    /// The secret that the servers of a state share: the first of them stores it, the others read
    /// it.
    fn shared(state: &dyn Storage) -> io::Result<Self> {
        let read = || match state.read(SHARED_NAME) {
            Ok((text, _)) => {
                let text = String::from_utf8(text).map_err(|error| invalid(error.to_string()))?;
                Self::parse(&text).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(secret) = read()? {
            return Ok(secret);
        }
        // If several servers start at once, only the first creates it. All read it back.
        state.create(SHARED_NAME, Self::generate()?.expose().as_bytes())?;
        let removed = || format!("`{SHARED_NAME}` was removed while the server read it");
        read()?.ok_or_else(|| invalid(removed()))
    }

    /// Whether the first segment of a path is the secret. Compares in constant time for a given
    /// length.
    pub(crate) fn opens(&self, path: &str) -> bool {
        let path = path.strip_prefix('/').unwrap_or(path);
        let segment = path.split_once('/').map_or(path, |(segment, _)| segment);
        self.expose().as_bytes().ct_eq(segment.as_bytes()).into()
    }

    /// The secret in plain text. Only for the URL.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// The token that every request has to carry.
#[derive(Clone, Debug)]
pub(crate) struct AccessToken(pub(in crate::server) SecretString);

impl AccessToken {
    /// Whether this is the token.
    pub(crate) fn matches(&self, sent: &[u8]) -> bool {
        self.0.expose_secret().as_bytes().ct_eq(sent).into()
    }
}

/// Creates the file atomically. Keeps the file if another process has created it meanwhile.
fn create(path: &Path, secret: &Secret) -> io::Result<()> {
    // Mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(private::directory_of(path))?;
    writeln!(file, "{}", secret.expose())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use super::*;
    use crate::server::store::{open, place::Place};

    const TEXT: &str = "0123456789-ABCDEF_abcdef";

    fn file_error(path: &Path) -> String {
        let source = SecretSource::File(path.to_owned());
        source.resolve(None).unwrap_err().to_string()
    }

    fn state(directory: &Path) -> Arc<dyn Storage> {
        let place = Place::Directory(directory.join("state"));
        open::open(&place, directory, std::time::Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn generated_secrets_have_128_bits_and_differ() {
        let secrets = [Secret::generate().unwrap(), Secret::generate().unwrap()];
        assert_eq!(secrets[0].expose().len(), 32);
        assert_ne!(secrets[0].expose(), secrets[1].expose());
        Secret::parse(secrets[0].expose()).unwrap();
    }

    #[test]
    fn only_the_first_segment_opens_and_only_in_whole() {
        let secret = Secret::parse(TEXT).unwrap();
        let open = [
            format!("/{TEXT}"),
            format!("/{TEXT}/"),
            format!("/{TEXT}/create"),
        ];
        for path in open {
            assert!(secret.opens(&path), "{path}");
        }
        for path in [
            String::new(),
            "/".to_owned(),
            "/create".to_owned(),
            format!("//{TEXT}/create"),
            format!("/create/{TEXT}"),
            format!("/{TEXT}x/create"),
            format!("/{}/create", &TEXT[1..]),
            format!("/{}/create", TEXT.to_lowercase()),
            format!("/{}/create", TEXT.replace('0', "%30")),
        ] {
            assert!(!secret.opens(&path), "{path}");
        }
    }

    #[test]
    fn secrets_that_are_short_or_not_url_safe_are_refused() {
        for text in [
            "",
            "short",
            &"a".repeat(MAX_LENGTH + 1),
            "0123456789/ABCDEF_abcdef",
            "0123456789 ABCDEF_abcdef",
            "0123456789é-ABCDEF_abcdef",
        ] {
            let source = SecretSource::Given(SecretString::from(text));
            let error = source.resolve(None).unwrap_err().to_string();
            assert!(error.contains("expected 22 to 128"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = Secret::parse(TEXT).unwrap();
        let source = SecretSource::Given(SecretString::from(TEXT));
        let token = AccessToken(SecretString::from(TEXT));
        for shown in [
            format!("{secret:?}"),
            format!("{source:?}"),
            format!("{token:?}"),
        ] {
            assert!(!shown.contains(TEXT), "{shown}");
        }
    }

    #[test]
    fn a_file_is_created_for_its_owner_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let first = Secret::from_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let again = Secret::from_file(&path).unwrap();
        assert_eq!(first.expose(), again.expose());
        fs::write(&path, format!("{TEXT}\r\n")).unwrap();
        assert_eq!(Secret::from_file(&path).unwrap().expose(), TEXT);
    }

    #[test]
    fn unsafe_files_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        Secret::from_file(&path).unwrap();
        for mode in [0o640, 0o604, 0o602, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = file_error(&path);
            assert!(error.contains(&format!("mode {mode:04o}")), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(file_error(&link).contains("is a symbolic link"));
        let dangling = folder.path().join("dangling");
        std::os::unix::fs::symlink(folder.path().join("nothing"), &dangling).unwrap();
        assert!(file_error(&dangling).contains("is a symbolic link"));
        assert!(file_error(folder.path()).contains("is not a file"));
        assert!(file_error(&folder.path().join("no/such")).contains("No such file"));
        for text in ["", "short", &"a".repeat(4_096)] {
            fs::write(&path, text).unwrap();
            assert!(file_error(&path).contains("expected 22 to 128"));
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for path in [&path, &folder.path().join("missing")] {
            let error = file_error(path);
            assert!(error.contains("`chmod go-w "), "{error}");
        }
        assert!(!folder.path().join("missing").exists());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        if nix::unistd::geteuid().is_root() {
            fs::write(&path, TEXT).unwrap();
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(file_error(&path).contains("another user (uid 65534)"));
        }
    }

    #[test]
    fn servers_that_share_a_state_share_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let secret = || {
            let state = state(folder.path());
            let secret = SecretSource::Generated.resolve(Some(&*state)).unwrap();
            secret.unwrap().expose().to_owned()
        };
        let secrets: Vec<String> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..8).map(|_| scope.spawn(secret)).collect();
            starting.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|it| *it == secrets[0]), "{secrets:?}");
        let stored = folder.path().join("state").join(SHARED_NAME);
        assert_eq!(fs::metadata(&stored).unwrap().mode() & 0o077, 0);
        fs::write(&stored, "damaged").unwrap();
        let damaged = SecretSource::Generated.resolve(Some(&*state(folder.path())));
        let error = damaged.unwrap_err().to_string();
        assert!(error.contains("in the state"), "{error}");
    }
}

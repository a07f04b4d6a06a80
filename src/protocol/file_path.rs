//! [`FilePath`]: a path in a sandbox, whose bytes need not be UTF-8.

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A path or a file name in a sandbox. A relative path starts at the home directory of the sandbox.
/// The bytes need not be UTF-8.
///
/// On the wire, a path is text if it is UTF-8, and otherwise `{"b64":"…"}` (RFC 4648, section 4).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// Creates a path from its bytes.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as text. U+FFFD replaces bytes that are not UTF-8.
    pub fn to_string_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The same bytes as a path of this machine. Only on Unix.
    #[cfg(unix)]
    pub fn as_path(&self) -> &Path {
        use std::os::unix::ffi::OsStrExt;
        Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }
}

impl From<&str> for FilePath {
    fn from(path: &str) -> Self {
        Self(path.as_bytes().to_vec())
    }
}

impl From<String> for FilePath {
    fn from(path: String) -> Self {
        Self(path.into_bytes())
    }
}

impl From<&String> for FilePath {
    fn from(path: &String) -> Self {
        path.as_str().into()
    }
}

impl From<&FilePath> for FilePath {
    fn from(path: &FilePath) -> Self {
        path.clone()
    }
}

impl From<&Path> for FilePath {
    /// On Unix, keeps the bytes of the path. On other systems, replaces `\` with `/`.
    fn from(path: &Path) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            Self(path.as_os_str().as_bytes().to_vec())
        }
        #[cfg(not(unix))]
        {
            path.to_string_lossy().replace('\\', "/").into()
        }
    }
}

impl From<&std::path::PathBuf> for FilePath {
    fn from(path: &std::path::PathBuf) -> Self {
        path.as_path().into()
    }
}

impl PartialEq<str> for FilePath {
    fn eq(&self, path: &str) -> bool {
        self.0 == path.as_bytes()
    }
}

impl PartialEq<&str> for FilePath {
    fn eq(&self, path: &&str) -> bool {
        self == *path
    }
}

impl From<std::path::PathBuf> for FilePath {
    fn from(path: std::path::PathBuf) -> Self {
        path.as_path().into()
    }
}

impl std::fmt::Display for FilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_string_lossy())
    }
}

impl std::fmt::Debug for FilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.to_string_lossy())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathOnWire {
    Text(String),
    Other { b64: String },
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => to.serialize_str(text),
            Err(_) => PathOnWire::Other {
                b64: BASE64_STANDARD.encode(&self.0),
            }
            .serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match PathOnWire::deserialize(from)? {
            PathOnWire::Text(text) => Ok(text.into()),
            PathOnWire::Other { b64 } => {
                let bytes = BASE64_STANDARD.decode(b64).map_err(D::Error::custom)?;
                Ok(Self(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_wire() {
        for bytes in [&b"a/b"[..], b"", b"\xff\xfe", "ü".as_bytes()] {
            let path = FilePath::from_bytes(bytes);
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(
                serde_json::from_str::<FilePath>(&json).unwrap(),
                path,
                "{json}"
            );
        }
        let json = serde_json::to_string(&FilePath::from_bytes(*b"\xff")).unwrap();
        assert_eq!(json, r#"{"b64":"/w=="}"#);
    }
}

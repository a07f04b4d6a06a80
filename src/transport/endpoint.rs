//! [`Endpoint`]: the address of a service, validated before a dial.

use std::{fmt, iter, net::SocketAddr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::{Host, Url};

use crate::protocol::{
    SandboxId, SandboxToken,
    names::{KEY_SANDBOX_TOKEN, PATH_ATTACH, PATH_CREATE},
};

/// The scheme of every URL that is passed to awc. With `wss`, awc would use its own TLS connector.
const SCHEME: &str = "ws://";

/// All characters except the unreserved ones of RFC 3986.
pub(crate) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The reason why a URL can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UrlError {
    /// The text is not a URL.
    #[error(
        "`{url}` is not a URL ({problem}); expected something like wss://host or http://127.0.0.1:8080"
    )]
    Invalid {
        /// The URL, with secrets removed.
        url: String,
        /// The error of the URL parser.
        problem: String,
    },
    /// The scheme is not `ws`, `wss`, `http` or `https`.
    #[error("`{url}` has the scheme `{scheme}`; expected ws://, wss://, http:// or https://")]
    Scheme {
        /// The URL, with secrets removed.
        url: String,
        /// The scheme of the URL.
        scheme: String,
    },
    /// The URL has no host.
    #[error("`{url}` names no host; expected something like wss://host or http://127.0.0.1:8080")]
    NoHost {
        /// The URL, with secrets removed.
        url: String,
    },
    /// The URL contains a user name or a password, which could leak into logs.
    #[error(
        "the URL of {host} contains a user name or password; remove them and send a header instead"
    )]
    Credentials {
        /// The host of the URL.
        host: String,
    },
    /// The URL contains a query or a fragment, which have no meaning here.
    #[error(
        "the URL of {host} contains a query or a fragment; remove them (the client adds the service's paths)"
    )]
    Query {
        /// The host of the URL.
        host: String,
    },
}

/// The address of a service.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `ws://host:port/path` without a trailing slash. The scheme is `ws` even with TLS. The path
    /// may be a secret: never log it.
    base: String,
    /// `host:port`, for error texts.
    authority: String,
    /// The socket address, if the host is an IP address. It saves the DNS lookup.
    address: Option<SocketAddr>,
    tls: bool,
}

impl fmt::Debug for Endpoint {
    /// Omits the path, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("authority", &self.authority)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// The request of a dial: create a sandbox, or attach to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Create,
    Attach(SandboxId, SandboxToken),
}

impl Target {
    /// Returns the path and query to append to the service's base path. They contain the token:
    /// never log them.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Create => PATH_CREATE.to_owned(),
            Self::Attach(id, token) => format!(
                "{PATH_ATTACH}/{}?{KEY_SANDBOX_TOKEN}={}",
                utf8_percent_encode(id.as_str(), ESCAPED),
                utf8_percent_encode(token.expose_secret(), ESCAPED),
            ),
        }
    }
}

impl Target {
    /// Returns the token, plain and percent-encoded as in the path.
    pub(super) fn secrets(&self) -> Vec<SandboxToken> {
        match self {
            Self::Create => Vec::new(),
            Self::Attach(_, token) => {
                let escaped = utf8_percent_encode(token.expose_secret(), ESCAPED).to_string();
                vec![token.clone(), SandboxToken::from(escaped)]
            }
        }
    }
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        let shown = || without_secrets(text);
        // An error must not quote a password, so errors use `shown`.
        let url = Url::parse(text.trim()).map_err(|error| match error {
            url::ParseError::EmptyHost => UrlError::NoHost { url: shown() },
            error => UrlError::Invalid {
                url: shown(),
                problem: error.to_string(),
            },
        })?;
        let tls = match url.scheme() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            scheme => {
                return Err(UrlError::Scheme {
                    url: shown(),
                    scheme: scheme.to_owned(),
                });
            }
        };
        let Some(host) = url.host() else {
            return Err(UrlError::NoHost { url: shown() });
        };
        let name = host.to_string();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::Credentials { host: name });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::Query { host: name });
        }
        let port = url
            .port_or_known_default()
            .unwrap_or(if tls { 443 } else { 80 });
        let authority = format!("{name}:{port}");
        Ok(Self {
            base: format!("{SCHEME}{authority}{}", url.path().trim_end_matches('/')),
            authority,
            address: match host {
                Host::Domain(_) => None,
                Host::Ipv4(ip) => Some((ip, port).into()),
                Host::Ipv6(ip) => Some((ip, port).into()),
            },
            tls,
        })
    }

    /// Returns the URL of a target, in the form that awc needs. It contains the token: never log
    /// it.
    pub(crate) fn url(&self, target: &Target) -> String {
        self.url_of(&target.path())
    }

    /// Returns the URL of a path below the service's base path, in the form that awc needs: never
    /// log it.
    pub(super) fn url_of(&self, path: &str) -> String {
        self.base.clone() + path
    }

    /// Returns the service's base path, which may be a secret, and each segment of it. Each is
    /// returned percent-encoded and decoded.
    pub(super) fn secrets(&self) -> Vec<SandboxToken> {
        let path = &self.base[SCHEME.len() + self.authority.len()..];
        let path = path.trim_start_matches('/');
        let encoded = iter::once(path).chain(path.split('/'));
        let forms = encoded.flat_map(|it| {
            let decoded = percent_decode_str(it).decode_utf8_lossy();
            [it.to_owned(), decoded.into_owned()]
        });
        forms.map(SandboxToken::from).collect()
    }

    /// `host:port`, for error texts.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether the host is a loopback address or `localhost`.
    #[cfg(feature = "google-auth")]
    pub(crate) fn is_loopback(&self) -> bool {
        match self.address {
            Some(address) => address.ip().is_loopback(),
            None => self
                .authority
                .rsplit_once(':')
                .is_some_and(|(host, _)| host == "localhost"),
        }
    }

    /// Returns the origin, which is the audience of an ID token. Google expects `https` in it, and
    /// a port only if it is not the default one.
    #[cfg(feature = "google-auth")]
    pub(crate) fn origin(&self) -> String {
        let usual = if self.tls { ":443" } else { ":80" };
        let host = self.authority.strip_suffix(usual);
        format!("https://{}", host.unwrap_or(&self.authority))
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }
}

/// Returns the scheme, host and port of an unusable URL, for an error text. Omits all other parts,
/// which may contain passwords, tokens and other secrets.
///
/// In text that is not a URL, any `@` may end a password and any `/` may start a path. So this
/// omits the text between the scheme and the last `@`, and the text from the next slash, `?` or `#`
/// to the end.
fn without_secrets(text: &str) -> String {
    let text = text.trim();
    let scheme = text.find("://").map_or(0, |at| at + 3);
    let (start, user, rest) = match text.rfind('@') {
        Some(at) if at >= scheme => (&text[..scheme], "…", &text[at..]),
        Some(at) => ("", "…", &text[at..]),
        None => (&text[..scheme], "", &text[scheme..]),
    };
    match rest.find(['/', '\\', '?', '#']) {
        None => format!("{start}{user}{rest}"),
        // A trailing slash alone is no secret.
        Some(at) if rest[at..] == *"/" => format!("{start}{user}{rest}"),
        Some(at) => format!("{start}{user}{}/…", &rest[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(url: &str) -> String {
        Endpoint::parse(url).expect(url).url(&Target::Create)
    }

    #[test]
    fn every_accepted_form_gives_the_same_endpoint() {
        for url in ["ws://h:80", "http://h", "http://h/", "  http://H:80/  "] {
            assert_eq!(create(url), "ws://h:80/create", "{url}");
        }
        assert_eq!(create("https://h/a/b/"), "ws://h:443/a/b/create");
        assert_eq!(create("ws://[::1]:9"), "ws://[::1]:9/create");
        assert_eq!(
            Endpoint::parse("ws://[::1]:9").expect("v6").address(),
            Some("[::1]:9".parse().expect("v6"))
        );
    }

    #[test]
    fn id_and_token_are_escaped() {
        let endpoint = Endpoint::parse("ws://h").expect("url");
        let target = Target::Attach("../a b?&#é".into(), "t/&=+ %".into());
        assert_eq!(
            endpoint.url(&target),
            "ws://h:80/attach/..%2Fa%20b%3F%26%23%C3%A9?sandbox_token=t%2F%26%3D%2B%20%25"
        );
    }

    #[test]
    fn the_path_and_its_parts_are_secrets_in_each_form() {
        let endpoint =
            Endpoint::parse("https://h:9/api/k%C3%A9y%2F1234567/é-12345678/").expect("url");
        for said in [
            "Cannot GET /api/k%C3%A9y%2F1234567/%C3%A9-12345678/create",
            "Cannot GET /api/kéy/1234567/é-12345678/create",
            r"Cannot GET \/api\/k%C3%A9y%2F1234567\/create",
            "no tenant `kéy/1234567`",
            "no tenant `é-12345678`",
        ] {
            let secrets = endpoint.secrets();
            let shown = secrets
                .iter()
                .fold(said.to_owned(), |it, secret| secret.redact(it));
            assert!(!shown.contains("34567") && shown.contains('…'), "{shown}");
        }
        let endpoint = Endpoint::parse("http://h").expect("url");
        let said = "no such host: h";
        for secret in endpoint.secrets() {
            assert_eq!(secret.redact(said.to_owned()), said);
        }
    }

    #[test]
    fn unusable_urls_are_named_with_what_is_accepted() {
        for (url, parts) in [
            ("", vec!["`` is not a URL", "wss://host"]),
            (
                "localhost:8080",
                vec!["`localhost:8080`", "scheme `localhost`", "ws://, wss://"],
            ),
            ("/create", vec!["`/…` is not a URL"]),
            (
                "ftp://h",
                vec!["`ftp://h`", "scheme `ftp`", "http:// or https://"],
            ),
            ("http://", vec!["`http://` names no host"]),
            (
                "http://h:99999",
                vec!["`http://h:99999` is not a URL", "port"],
            ),
            ("http://h?x=1", vec!["URL of h contains a query"]),
        ] {
            let error = Endpoint::parse(url).expect_err(url).to_string();
            for part in parts {
                assert!(error.contains(part), "{url}: {error}");
            }
        }
    }

    #[test]
    fn passwords_in_urls_are_refused_and_not_shown() {
        for url in [
            "http://me:secret@h",
            "ftp://me:secret@h",
            "http://me:secret@h:99999",
            "http://h:x?sandbox_token=secret",
            "me:secret@h",
            "foo:/me:secret@h",
            "//me:secret@h",
            "http://me:a/secret@h:99999",
            "http://me:secret?x@h:99999",
            "me:secret@h://x",
            // The path of a local server's URL is a secret.
            "http://h:99999/secret",
            "http://h:99999/secret/create?x",
            "ftp://h/secret",
            "htp:/h/secret",
            "127.0.0.1:8080/secret",
            "//h/secret",
            "/secret",
            "http://h/secret?x=1",
            "http://h/secret#x",
            "http://me@h/secret",
        ] {
            let error = Endpoint::parse(url).expect_err(url).to_string();
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }
}

//! [`ListSandboxes`]: the sandboxes of a server.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use percent_encoding::utf8_percent_encode;
use tokio::time::timeout;

use super::{NewSandbox, Runtime, SandboxBuilder, runtime};
use crate::{
    Error, SandboxInfo,
    machine::LinkError,
    protocol::{
        excerpt,
        labels::{self, MAX_LABELS, check_label},
        listing::{PAGE_BYTES, SandboxPage},
        names::PATH_SANDBOXES,
    },
    transport::{DialConfig, ESCAPED, TokenSource, fetch},
};

/// Maximum size of a page that a server may send, in bytes. A page may exceed [`PAGE_BYTES`] by one
/// sandbox.
const MAX_PAGE_BYTES: usize = 2 * PAGE_BYTES;

/// Maximum number of sandboxes that a server may list.
const MAX_SANDBOXES: usize = 100_000;

/// Maximum size of the whole list in memory, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The whole list may take this many times as long as a page.
const TIMES_AS_LONG: u32 = 10;

/// Lists the sandboxes of a server. Await it to get them, in the order of their ids.
///
/// [`Sandbox::list`](crate::Sandbox::list) returns it. The options for authentication are those of
/// [`SandboxBuilder`].
///
/// # Cancel safety
///
/// Dropping the future cancels the request.
#[must_use = "the sandboxes are listed when this is awaited"]
#[derive(Clone)]
pub struct ListSandboxes {
    /// The options of the connection.
    connection: SandboxBuilder<NewSandbox>,
    labels: Vec<(String, String)>,
    timeout: Duration,
}

impl ListSandboxes {
    pub(super) fn new(url: String) -> Self {
        Self {
            connection: SandboxBuilder::create(url),
            labels: Vec::new(),
            timeout: Duration::from_secs(10),
        }
    }

    /// Lists only sandboxes with this [label](SandboxBuilder::label). If the option is repeated, a
    /// sandbox must have all of the labels. Default: all sandboxes.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Adds a header, for example `Authorization`, to the request: see [`SandboxBuilder::header`].
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.connection = self.connection.header(name, value);
        self
    }

    /// The source of the bearer token: see [`SandboxBuilder::bearer_token_source`].
    pub fn bearer_token_source(mut self, source: impl TokenSource) -> Self {
        self.connection = self.connection.bearer_token_source(source);
        self
    }

    /// Whether to send a Google ID token: see [`SandboxBuilder::google_auth`].
    #[cfg(feature = "google-auth")]
    #[cfg_attr(docsrs, doc(cfg(feature = "google-auth")))]
    pub fn google_auth(mut self, enable: bool) -> Self {
        self.connection = self.connection.google_auth(enable);
        self
    }

    /// The TLS configuration: see [`SandboxBuilder::tls_config`].
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_config(mut self, config: rustls::ClientConfig) -> Self {
        self.connection = self.connection.tls_config(config);
        self
    }

    /// How long to wait for each page of up to 1,000 sandboxes, from the DNS lookup to the end of
    /// the answer. The whole list may take ten times as long. Default: 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The runtime that makes the request: see [`SandboxBuilder::runtime`].
    pub fn runtime(mut self, runtime: &Runtime) -> Self {
        self.connection = self.connection.runtime(runtime);
        self
    }

    async fn list(mut self) -> Result<Vec<SandboxInfo>, Error> {
        let refused = |problem| Error::option("label", problem);
        if self.labels.len() > MAX_LABELS {
            let count = self.labels.len();
            return Err(refused(format!(
                "occurs {count} times; at most {MAX_LABELS} labels are allowed"
            )));
        }
        let mut query = String::new();
        for (key, value) in &self.labels {
            check_label(key, value).map_err(refused)?;
            query += &format!("&label={}", escape(&format!("{key}={value}")));
        }
        if self.timeout.is_zero() {
            let problem = "is zero; a time longer than zero is needed";
            return Err(Error::option("timeout", problem));
        }
        let runtime = self.connection.runtime.take();
        let connection = self.connection.connect_timeout(self.timeout);
        let dial = connection.settings()?.dial;
        let listed = runtime::run(runtime.as_ref(), move || all_pages(dial, query)).await?;
        listed.map_err(Error::not_listed)
    }
}

async fn all_pages(dial: DialConfig, query: String) -> Result<Vec<SandboxInfo>, LinkError> {
    let within = dial.connect_timeout.saturating_mul(TIMES_AS_LONG);
    let all = timeout(within, pages(&dial, query)).await;
    all.unwrap_or_else(|_elapsed| {
        Err(LinkError::ConnectTimeout {
            address: dial.endpoint.authority().to_owned(),
            after: within,
        })
    })
}

async fn pages(dial: &DialConfig, query: String) -> Result<Vec<SandboxInfo>, LinkError> {
    let violation = |detail: String| LinkError::Protocol { detail };
    let mut all = Vec::new();
    let mut bytes = 0;
    let mut after = String::new();
    loop {
        let path = format!("{PATH_SANDBOXES}?after={}{query}", escape(&after));
        let page: SandboxPage = fetch(dial, &path, MAX_PAGE_BYTES).await?;
        let has_sandboxes = !page.sandboxes.is_empty();
        for sandbox in &page.sandboxes {
            labels::check(&sandbox.labels).map_err(|problem| {
                let id = excerpt(sandbox.id.as_str().as_bytes());
                violation(format!(
                    "in its list, the set of labels of '{id}' {problem}"
                ))
            })?;
            bytes += size(sandbox);
        }
        if bytes > MAX_BYTES {
            let problem = format!("it lists more than {MAX_BYTES} bytes");
            return Err(violation(problem));
        }
        all.extend(page.sandboxes);
        if all.len() > MAX_SANDBOXES {
            let problem = format!("it lists more than {MAX_SANDBOXES} sandboxes");
            return Err(violation(problem));
        }
        match page.next {
            None => return Ok(all),
            // Every page must lead on, so that the list ends.
            Some(next) if has_sandboxes && next > after => after = next,
            Some(_) => return Err(violation("the pages of its list repeat".to_owned())),
        }
    }
}

/// About how much memory a sandbox of the list takes, in bytes.
fn size(sandbox: &SandboxInfo) -> usize {
    let labels = sandbox.labels.iter();
    let labels = labels.map(|(key, value)| 2 * size_of::<String>() + key.len() + value.len());
    size_of::<SandboxInfo>() + sandbox.id.as_str().len() + labels.sum::<usize>()
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

impl fmt::Debug for ListSandboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListSandboxes")
            .field("connection", &self.connection)
            .field("labels", &self.labels)
            .finish()
    }
}

impl IntoFuture for ListSandboxes {
    type Output = Result<Vec<SandboxInfo>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.list())
    }
}

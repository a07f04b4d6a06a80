//! Layer 2, transport: dials a server with awc, and turns the bytes of a WebSocket into frames. It
//! covers TLS, cookies, bearer tokens, the frame size limit, keepalive and recording.
//!
//! Uses [`protocol`](crate::protocol) for names and limits, and [`machine`](crate::machine) for
//! [`LinkError`](crate::machine::LinkError) and the keepalive. Does not depend on actors.

mod codec;
mod connector;
mod cookies;
mod credit;
mod dial;
mod endpoint;
mod fetch;
#[cfg(feature = "google-auth")]
mod google;
mod link;
mod recorder;
mod refusal;
mod socket;
#[cfg(feature = "tls")]
mod tls;
mod token;

pub(crate) use cookies::Cookies;
pub(crate) use credit::Credit;
pub(crate) use dial::{DialConfig, Dialled, dial};
pub(crate) use endpoint::{ESCAPED, Endpoint, Target, UrlError};
pub(crate) use fetch::fetch;
#[cfg(feature = "google-auth")]
pub(crate) use google::GoogleTokens;
pub(crate) use link::{Link, LinkConfig, LinkEvent};
#[cfg(feature = "test-util")]
pub(crate) use recorder::{By, Dir, Line, RECORDED_TOKEN};
pub(crate) use recorder::{RecordedDial, Recorder};
pub use token::{BearerToken, TokenError, TokenSource};

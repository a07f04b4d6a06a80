//! [`fetch`]: a GET request to a service, without a WebSocket.

use awc::{
    ClientResponse,
    error::{PayloadError, SendRequestError},
    http::{
        StatusCode,
        header::{AUTHORIZATION, CONTENT_LENGTH},
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    DialConfig, Target,
    dial::{classify_request, client, secrets_of},
    refusal::{self, MAX_BODY},
    token::authorization,
};
use crate::{machine::LinkError, protocol::excerpt};

/// Gets a JSON value of at most `most` bytes from a path below the URL of the service. The connect
/// timeout covers the whole request. Every error is one of the connection or of the server.
///
/// Must run in an actix `System` or a tokio `LocalSet`, because awc's client is not `Send`.
pub(crate) async fn fetch<T: DeserializeOwned>(
    config: &DialConfig,
    path: &str,
    most: usize,
) -> Result<T, LinkError> {
    let mut secrets = config.secrets(&Target::Create);
    let value = match &config.tokens {
        Some(tokens) => Some(authorization(tokens, config.connect_timeout).await?),
        None => None,
    };
    secrets.extend(value.iter().flat_map(secrets_of));
    let fetched = async {
        let mut request = client(config)?.get(config.endpoint.url_of(path));
        if let Some(address) = config.endpoint.address() {
            request = request.address(address);
        }
        for (name, value) in &config.headers {
            request = request.append_header((name.clone(), value.clone()));
        }
        if let Some(value) = value {
            request = request.append_header((AUTHORIZATION, value));
        }
        let sent = request.send().await;
        read(config, sent, most).await
    };
    let within = config.connect_timeout;
    let fetched = timeout(within, fetched).await;
    let fetched = fetched.unwrap_or_else(|_| {
        Err(LinkError::ConnectTimeout {
            address: config.endpoint.authority().to_owned(),
            after: within,
        })
    });
    // A server may repeat secrets of the request in its response.
    fetched.map_err(|error| secrets.iter().fold(error, LinkError::redact))
}

async fn read<S, T>(
    config: &DialConfig,
    sent: Result<ClientResponse<S>, SendRequestError>,
    most: usize,
) -> Result<T, LinkError>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    T: DeserializeOwned,
{
    let address = config.endpoint.authority();
    let mut response =
        sent.map_err(|error| classify_request(error, address, config.connect_timeout))?;
    if response.status() != StatusCode::OK {
        let (body, whole) = body(&mut response, MAX_BODY).await;
        let (status, headers) = (response.status(), response.headers());
        let refusal = refusal::of_response(address.to_owned(), status, headers, &body, whole);
        return Err(LinkError::UpgradeRefused(Box::new(refusal)));
    }
    let violation = |detail: String| LinkError::Protocol { detail };
    match body(&mut response, most).await {
        (body, true) => serde_json::from_slice(&body).map_err(|error| {
            // The error may quote a long text of the answer.
            let error = excerpt(error.to_string().as_bytes());
            violation(format!("its answer is not as expected: {error}"))
        }),
        (body, false) if body.len() >= most => {
            Err(violation(format!("its answer is larger than {most} bytes")))
        }
        (_, false) => Err(LinkError::Dropped {
            detail: format!("{address} closed the connection in the middle of its answer"),
        }),
    }
}

/// Reads at most `most` bytes of the body. Returns whether the body is complete.
async fn body<S>(response: &mut ClientResponse<S>, most: usize) -> (Vec<u8>, bool)
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let mut body = Vec::new();
    while let Some(chunk) = response.next().await {
        let Ok(chunk) = chunk else {
            return (body, false);
        };
        let room = most - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return (body, false);
        }
    }
    let declared = response.headers().get(CONTENT_LENGTH);
    let declared = declared.and_then(|it| it.to_str().ok()?.parse().ok());
    let whole = declared.is_none_or(|declared: usize| declared == body.len());
    (body, whole)
}

//! `GET /sandboxes`: lists the sandboxes that this server runs, in pages.
//!
//! The list shows labels and the times of sandboxes, but no token and no variable. Only a caller
//! that has shown a secret may read it: the secret of the URL or the access token.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Data};

use super::access::{check_caller, query_value, query_values, refused};
use crate::{
    protocol::{
        labels::{MAX_LABELS, check_label},
        listing::MAX_PAGE,
    },
    server::sandbox::manager::Manager,
};

/// Whether requests reach the endpoints only with the secret of the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrecy {
    /// The listener has checked the secret.
    Secret,
    /// Nothing is known about the caller.
    Unknown,
}

/// Handles a request.
pub(super) fn list(
    manager: &Data<Manager>,
    request: &HttpRequest,
    secrecy: Secrecy,
) -> actix_web::Result<HttpResponse> {
    check_caller(manager, request)?;
    if secrecy == Secrecy::Unknown && manager.options.access_token.is_none() {
        return Err(refused(
            StatusCode::FORBIDDEN,
            "This server has neither a secret nor an access token, so it lists its sandboxes to no \
             caller: start it with one of them.",
        ));
    }
    let query = request.query_string();
    let bad = |reason: String| refused(StatusCode::BAD_REQUEST, reason);
    let labels = labels(query).map_err(bad)?;
    let most = match query_value(query, "limit") {
        None => MAX_PAGE,
        Some(limit) => match limit.parse() {
            Ok(most) if (1..=MAX_PAGE).contains(&most) => most,
            _ => {
                return Err(bad(format!(
                    "'limit' must be a number from 1 to {MAX_PAGE}."
                )));
            }
        },
    };
    let after = query_value(query, "after").unwrap_or_default();
    let page = manager.registry.list(&labels, &after, most);
    Ok(HttpResponse::Ok().json(page))
}

/// Returns the labels that the query asks for, from its keys `label`, each of the form `KEY=VALUE`.
fn labels(query: &str) -> Result<Vec<(String, String)>, String> {
    let mut labels = Vec::new();
    for label in query_values(query, "label") {
        let Some((key, value)) = label.split_once('=') else {
            return Err("'label' must have the form KEY=VALUE.".to_owned());
        };
        check_label(key, value).map_err(|problem| format!("'label' {problem}."))?;
        if labels.len() == MAX_LABELS {
            return Err(format!("'label' occurs more than {MAX_LABELS} times."));
        }
        labels.push((key.to_owned(), value.to_owned()));
    }
    Ok(labels)
}

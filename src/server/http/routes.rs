//! The routes of the endpoints.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder, Route, guard,
    http::StatusCode,
    web::{self, Data, ServiceConfig},
};

use super::{
    access::{check_caller, decode, query_value, refused},
    execute::execute,
    list::{Secrecy, list},
};
use crate::{
    protocol::{
        SandboxToken,
        names::{
            KEY_SANDBOX_TOKEN, PATH_ATTACH, PATH_CREATE, PATH_EXECUTE, PATH_SANDBOXES, PATH_STATUS,
        },
    },
    server::{
        backend::warm::{WarmCounts, WarmPool},
        sandbox::manager::Manager,
        session::conversation::{Opening, open},
    },
};

/// Adds the health checks. They need neither the secret nor an access token. Methods other than GET
/// get 404, like all requests without the secret.
pub(crate) fn add_health(config: &mut ServiceConfig, manager: Arc<Manager>) {
    let data = Data::from(manager);
    config
        .service(web::resource("/healthz").guard(guard::Get()).to(healthz))
        .service(
            web::resource("/readyz")
                .guard(guard::Get())
                .app_data(data)
                .to(readyz),
        );
}

async fn healthz() -> HttpResponse {
    json(HttpResponse::Ok(), r#"{"status":"ok"}"#)
}

async fn readyz(manager: Data<Manager>) -> HttpResponse {
    let (sandboxes, most) = (manager.registry.count(), manager.options.max_sandboxes);
    let (response, status) = match () {
        () if manager.registry.is_closed() => (HttpResponse::ServiceUnavailable(), "stopping"),
        () if sandboxes >= most => (HttpResponse::ServiceUnavailable(), "full"),
        () => (HttpResponse::Ok(), "ready"),
    };
    let warm = manager.warm.as_ref().map(WarmPool::counts);
    let warm = warm.map_or_else(String::new, |counts| {
        let WarmCounts {
            ready,
            size,
            hits,
            misses,
        } = counts;
        format!(r#","warm":{{"ready":{ready},"size":{size},"hits":{hits},"misses":{misses}}}"#)
    });
    json(
        response,
        format!(r#"{{"status":"{status}","sandboxes":{sandboxes},"max_sandboxes":{most}{warm}}}"#),
    )
}

/// Adds the endpoints to an application.
pub(crate) fn add(config: &mut ServiceConfig, manager: Arc<Manager>, secrecy: Secrecy) {
    // Each resource has its own data, so that it can't conflict with data of the application.
    let data = Data::from(manager);
    let mut add = |path: &[&str], route: Route| {
        let resource = web::resource(path.to_vec());
        config.service(resource.app_data(data.clone()).route(route));
    };
    add(&[PATH_CREATE], web::get().to(create));
    add(
        &[&format!("{PATH_ATTACH}/{{sandbox_id:.*}}")],
        web::get().to(attach),
    );
    add(&[PATH_STATUS], web::get().to(status));
    let list = move |manager: Data<Manager>, request: HttpRequest| async move {
        list(&manager, &request, secrecy)
    };
    add(&[PATH_SANDBOXES], web::get().to(list));
    add(&[PATH_EXECUTE], web::post().to(execute));
    add(&["", "/"], web::get().to(root));
}

async fn create(
    manager: Data<Manager>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    check_caller(&manager, &request)?;
    open(manager.into_inner(), Opening::Create, &request, payload)
}

async fn attach(
    manager: Data<Manager>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    check_caller(&manager, &request)?;
    let token = query_value(request.query_string(), KEY_SANDBOX_TOKEN).ok_or_else(|| {
        let reason = format!("The query parameter {KEY_SANDBOX_TOKEN} is missing.");
        refused(StatusCode::FORBIDDEN, reason)
    })?;
    let opening = Opening::Attach {
        id: decode(request.match_info().query("sandbox_id")),
        token: SandboxToken::new(token),
    };
    open(manager.into_inner(), opening, &request, payload)
}

async fn status(manager: Data<Manager>, request: HttpRequest) -> actix_web::Result<HttpResponse> {
    check_caller(&manager, &request)?;
    Ok(json(HttpResponse::Ok(), r#"{"status":"ok"}"#))
}

async fn root(manager: Data<Manager>, request: HttpRequest) -> actix_web::Result<HttpResponse> {
    check_caller(&manager, &request)?;
    Ok(json(
        HttpResponse::Ok(),
        r#"{"message":"Server is running"}"#,
    ))
}

fn json(mut response: HttpResponseBuilder, text: impl Into<String>) -> HttpResponse {
    response.content_type("application/json").body(text.into())
}

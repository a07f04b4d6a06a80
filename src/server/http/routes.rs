//! The endpoints.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, guard, web, web::ServiceConfig};

use super::{
    access::{check_caller, decode, forbidden, query_value},
    execute::execute,
};
use crate::{
    protocol::{
        SandboxToken,
        names::{KEY_SANDBOX_TOKEN, PATH_ATTACH, PATH_CREATE, PATH_EXECUTE, PATH_STATUS},
    },
    server::{
        sandbox::manager::Manager,
        session::conversation::{Opening, open},
    },
};

/// Adds the health checks, which every caller may use. Other methods find nothing there, as
/// everywhere without the secret.
pub(crate) fn add_health(config: &mut ServiceConfig, manager: Arc<Manager>) {
    let data = web::Data::from(manager);
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
    HttpResponse::Ok()
        .content_type("application/json")
        .body(r#"{"status":"ok"}"#)
}

async fn readyz(manager: web::Data<Manager>) -> HttpResponse {
    let (sandboxes, most) = (manager.registry.count(), manager.options.max_sandboxes);
    let (mut response, status) = match () {
        () if manager.registry.is_closed() => (HttpResponse::ServiceUnavailable(), "stopping"),
        () if sandboxes >= most => (HttpResponse::ServiceUnavailable(), "full"),
        () => (HttpResponse::Ok(), "ready"),
    };
    response.content_type("application/json").body(format!(
        r#"{{"status":"{status}","sandboxes":{sandboxes},"max_sandboxes":{most}}}"#
    ))
}

/// Adds the endpoints to an application.
pub(crate) fn add(config: &mut ServiceConfig, manager: Arc<Manager>) {
    // The data is with each resource, so that it cannot clash with the application's own.
    let data = web::Data::from(manager);
    config
        .service(
            web::resource(PATH_CREATE)
                .app_data(data.clone())
                .route(web::get().to(create)),
        )
        .service(
            web::resource(format!("{PATH_ATTACH}/{{sandbox_id:.*}}"))
                .app_data(data.clone())
                .route(web::get().to(attach)),
        )
        .service(
            web::resource(PATH_STATUS)
                .app_data(data.clone())
                .route(web::get().to(status)),
        )
        .service(
            web::resource(PATH_EXECUTE)
                .app_data(data.clone())
                .route(web::post().to(execute)),
        )
        .service(
            web::resource(["", "/"])
                .app_data(data)
                .route(web::get().to(root)),
        );
}

async fn create(
    manager: web::Data<Manager>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    if let Err(refusal) = check_caller(&manager, &request) {
        return Ok(refusal.response());
    }
    open(manager.into_inner(), Opening::Create, &request, payload)
}

async fn attach(
    manager: web::Data<Manager>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    if let Err(refusal) = check_caller(&manager, &request) {
        return Ok(refusal.response());
    }
    let Some(token) = query_value(request.query_string(), KEY_SANDBOX_TOKEN) else {
        return Ok(forbidden(format!(
            "The query parameter {KEY_SANDBOX_TOKEN} is missing."
        )));
    };
    let opening = Opening::Attach {
        id: decode(request.match_info().query("sandbox_id")),
        token: SandboxToken::new(token),
    };
    open(manager.into_inner(), opening, &request, payload)
}

async fn status(manager: web::Data<Manager>, request: HttpRequest) -> HttpResponse {
    answer(&manager, &request, r#"{"status":"ok"}"#)
}

async fn root(manager: web::Data<Manager>, request: HttpRequest) -> HttpResponse {
    answer(&manager, &request, r#"{"message":"Server is running"}"#)
}

fn answer(manager: &Manager, request: &HttpRequest, json: &'static str) -> HttpResponse {
    match check_caller(manager, request) {
        Ok(()) => HttpResponse::Ok()
            .content_type("application/json")
            .body(json),
        Err(refusal) => refusal.response(),
    }
}

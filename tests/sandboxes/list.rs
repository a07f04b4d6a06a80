//! The list of a server's sandboxes: who may read it, and what it says.

use std::time::{Duration, SystemTime};

use actix_sandbox::{
    BearerToken, ErrorKind, Language, ListedState, LocalServer, Runtime, Sandbox, SandboxInfo,
    server::SandboxService,
};
use actix_web::{App, HttpServer};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{
    allow_open_files, backend, patient, raw_client::get, scripted::Scripted, within,
};

const TOKEN: &str = "an-access-token-of-this-test";

async fn with_label(url: &str, key: &str, value: &str) -> Vec<SandboxInfo> {
    let listed = Sandbox::list(url).label(key, value);
    within("a list", listed).await.expect("listed")
}

#[actix::test]
async fn sandboxes_are_found_by_their_labels() {
    let server = LocalServer::start().await.unwrap();
    let url = server.url();
    let none = within("a list", Sandbox::list(url)).await.unwrap();
    assert_eq!(none, []);
    let before = SystemTime::now() - Duration::from_millis(1);
    let odd = "a=b&c %2F é\n";
    let hour = Duration::from_secs(3_600);
    let create = patient(url).label("team", "a").label("odd", odd);
    let first = within("create", create.max_lifetime(hour)).await.unwrap();
    let create = patient(url).label("team", "a").env("KEY", "v");
    let second = within("create", create).await.unwrap();
    let third = within("create", patient(url)).await.unwrap();

    let all = within("a list", Sandbox::list(url)).await.unwrap();
    let mut ids = [&first, &second, &third].map(|it| it.sandbox_id().clone());
    ids.sort();
    assert_eq!(all.iter().map(|it| it.id.clone()).collect::<Vec<_>>(), ids);
    assert_eq!(with_label(url, "team", "a").await.len(), 2);
    assert_eq!(with_label(url, "team", "b").await, []);
    assert_eq!(with_label(url, "a", "team").await, []);
    let both = Sandbox::list(url).label("team", "a").label("odd", odd);
    let both = within("a list", both).await.unwrap();
    assert_eq!(both.len(), 1);
    assert_eq!(both[0].id, *first.sandbox_id());
    assert_eq!(both[0].labels["odd"], odd);
    assert_eq!(both[0].labels.len(), 2);
    assert_eq!(both[0].state, ListedState::Attached);
    let created = both[0].created();
    assert!(before <= created && created <= SystemTime::now());
    assert_eq!(both[0].ends_at(), Some(created + hour));

    // The handle that created it is gone, so its client is detached.
    let id = second.sandbox_id().clone();
    drop(second);
    within("its client is detached", async {
        loop {
            let listed = with_label(url, "team", "a").await;
            let listed = listed.into_iter().find(|it| it.id == id).unwrap();
            if listed.state == ListedState::Detached {
                return assert_eq!(listed.ends_at(), None);
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    within("kill", first.kill()).await.unwrap();
    assert_eq!(with_label(url, "odd", odd).await, []);
    within("stop", server.stop()).await;
}

#[actix::test]
async fn the_list_shows_no_secret_and_opens_no_sandbox() {
    let server = LocalServer::start().await.unwrap();
    let create = patient(server.url()).env("KEY", "s3cr3t-of-a-variable");
    let sandbox = within("create", create).await.unwrap();
    let (status, body) = get(&server, "/sandboxes", &[]).await;
    assert_eq!(status, 200);
    for secret in [
        sandbox.sandbox_token().expose_secret(),
        "s3cr3t-of-a-variable",
        "KEY",
        server.url().rsplit_once('/').unwrap().1,
    ] {
        assert!(!body.contains(secret), "{body}");
    }
    let id = sandbox.sandbox_id().clone();
    assert!(body.contains(id.as_str()), "{body}");
    drop(sandbox);
    for token in [id.as_str(), "0"] {
        let attach = Sandbox::attach(server.url(), id.clone(), token);
        let error = within("attach", attach).await.expect_err("not the token");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    within("stop", server.stop()).await;
}

#[actix::test]
async fn only_a_caller_with_a_secret_may_list() {
    let refused = async |url: &str| {
        let error = within("a list", Sandbox::list(url)).await;
        let error = error.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::UpgradeRefused, "{error}");
        (error.http_status().unwrap(), error.to_string())
    };
    // A secret in the URL.
    let server = LocalServer::start().await.unwrap();
    let (base, secret) = server.url().rsplit_once('/').unwrap();
    for wrong in [
        base.to_owned(),
        format!("{base}/{}", "0".repeat(secret.len())),
    ] {
        let (status, text) = refused(&wrong).await;
        assert_eq!(status, 404);
        assert!(
            text.contains("secret path") && !text.contains("WebSocket"),
            "{text}"
        );
    }
    within("stop", server.stop()).await;

    // An access token.
    let server = LocalServer::builder().no_secret().access_token(TOKEN);
    let server = server.start().await.unwrap();
    let (status, text) = refused(server.url()).await;
    assert_eq!(status, 401);
    assert!(text.contains("access token"), "{text}");
    let list = || Sandbox::list(server.url());
    let wrong = list().header("Authorization", "Bearer wrong");
    let error = within("a list", wrong).await.unwrap_err();
    assert_eq!(error.http_status(), Some(401), "{error}");
    let good = list().header("Authorization", format!("Bearer {TOKEN}"));
    assert_eq!(within("a list", good).await.unwrap(), []);
    let good = list().bearer_token_source(|| async { Ok(BearerToken::new(TOKEN)) });
    assert_eq!(within("a list", good).await.unwrap(), []);
    within("stop", server.stop()).await;

    // Neither: every caller may create a sandbox, but none may find those of the others.
    let server = LocalServer::builder().no_secret().start().await.unwrap();
    let (status, text) = refused(server.url()).await;
    assert_eq!(status, 403);
    assert!(
        text.contains("neither a secret nor an access token"),
        "{text}"
    );
    let sandbox = within("create", patient(server.url())).await.unwrap();
    within("kill", sandbox.kill()).await.unwrap();
    within("stop", server.stop()).await;
}

/// The service can't know whether the application checks its callers.
#[actix::test]
async fn a_mounted_service_lists_only_with_an_access_token() {
    for token in [None, Some(TOKEN)] {
        let mut builder = SandboxService::builder();
        if let Some(token) = token {
            builder = builder.access_token(token);
        }
        let service = builder.service().await.unwrap();
        let mounted = service.clone();
        let server = HttpServer::new(move || App::new().configure(mounted.configure()))
            .workers(1)
            .disable_signals()
            .bind(("127.0.0.1", 0))
            .unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        let list = Sandbox::list(url).header("Authorization", format!("Bearer {TOKEN}"));
        let listed = within("a list", list).await;
        match token {
            Some(_) => assert_eq!(listed.unwrap(), []),
            None => assert_eq!(listed.unwrap_err().http_status(), Some(403)),
        }
        handle.stop(false).await;
        within("stop", service.stop()).await;
    }
}

#[actix::test]
async fn bad_requests_for_a_list_are_refused() {
    let server = LocalServer::start().await.unwrap();
    let long = format!("/sandboxes?label={}%3Dv", "k".repeat(64));
    let many = format!("/sandboxes?{}", "label=k%3Dv&".repeat(65));
    for (path, part) in [
        ("/sandboxes?label=k", "KEY=VALUE"),
        ("/sandboxes?label=%3Dv", "an empty key"),
        (&long, "a key of 64 bytes"),
        (&many, "more than 64 times"),
        ("/sandboxes?limit=0", "from 1 to 1000"),
        ("/sandboxes?limit=1001", "from 1 to 1000"),
        ("/sandboxes?limit=all", "from 1 to 1000"),
    ] {
        let (status, body) = get(&server, path, &[]).await;
        assert_eq!(status, 400, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
    }
    let url = server.url();
    let many = (0..65).fold(Sandbox::list(url), |it, number| {
        it.label(number.to_string(), "")
    });
    for (list, part) in [
        (
            Sandbox::list(url).label("k".repeat(1 << 20), "v"),
            "a key of 1048576",
        ),
        (Sandbox::list(url).label("", "v"), "an empty key"),
        (many, "`label` occurs 65 times"),
        (
            Sandbox::list(url).timeout(Duration::ZERO),
            "`timeout` is zero",
        ),
        (
            Sandbox::list(url).header("host", "h"),
            "only the client may set",
        ),
    ] {
        let error = within("a list", list).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = within("a list", Sandbox::list("ftp://h"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{error}");
    within("stop", server.stop()).await;
}

/// Whatever a server answers, the list is complete or an error.
#[actix::test]
async fn an_answer_that_is_not_a_list_is_an_error() {
    let page = |next: &str| {
        format!(r#"{{"sandboxes":[{{"id":"b","state":"new","created_ms":1}}],"next":{next}}}"#)
    };
    let [good, again, backwards] = [page("null"), page(r#""b""#), page(r#""a""#)];
    let huge = format!("[{}]", " ".repeat(3 << 20));
    let long = format!(r#"{{"sandboxes":"{}"}}"#, "x".repeat(1 << 20));
    let labelled = |labels: Value| {
        let sandbox = json!({"id": "b", "state": "new", "created_ms": 1, "labels": labels});
        json!({ "sandboxes": [sandbox] }).to_string()
    };
    let many: Value = (0..65).map(|it| (it.to_string(), json!(""))).collect();
    let [many, control] = [labelled(many), labelled(json!({"a\n": ""}))];
    for (pages, kind) in [
        (vec![good.as_str()], None),
        (vec![again.as_str(), good.as_str()], None),
        (
            vec![again.as_str(), again.as_str()],
            Some(ErrorKind::Protocol),
        ),
        (
            vec![again.as_str(), backwards.as_str()],
            Some(ErrorKind::Protocol),
        ),
        (
            vec![r#"{"sandboxes":[],"next":"z"}"#],
            Some(ErrorKind::Protocol),
        ),
        (vec!["[]"], Some(ErrorKind::Protocol)),
        (vec!["<html>"], Some(ErrorKind::Protocol)),
        (
            vec![r#"{"sandboxes":[{"id":1}]}"#],
            Some(ErrorKind::Protocol),
        ),
        (vec![huge.as_str()], Some(ErrorKind::Protocol)),
        (vec![long.as_str()], Some(ErrorKind::Protocol)),
        (vec![many.as_str()], Some(ErrorKind::Protocol)),
        (vec![control.as_str()], Some(ErrorKind::Protocol)),
    ] {
        let server = Scripted::bind().await;
        let list = within("a list", Sandbox::list(server.url()));
        let script = async {
            for page in &pages {
                let length = page.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{page}");
                server.try_answer(answer.as_bytes()).await;
            }
        };
        let (listed, ()) = futures::join!(list, script);
        match (listed, kind) {
            (Ok(listed), None) => assert_eq!(listed[0].state, ListedState::Other),
            (Err(error), Some(kind)) => {
                assert_eq!(error.kind(), kind, "{error}");
                assert!(error.to_string().len() < 1_000, "{error}");
            }
            (listed, kind) => panic!("{listed:?}, not {kind:?}"),
        }
    }
    let server = Scripted::bind().await;
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
    let list = within("a list", Sandbox::list(server.url()));
    let (listed, ()) = futures::join!(list, async { drop(server.answer(cut).await) });
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::LinkLost);
    let silent = Scripted::bind().await;
    let list = Sandbox::list(silent.url()).timeout(Duration::from_millis(100));
    let error = within("a list", list).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

/// Each page is valid and leads to another one.
#[actix::test]
async fn a_list_that_never_ends_is_limited_in_time_and_memory() {
    for (id, timeout, kind) in [
        ("x".to_owned(), 50, ErrorKind::Timeout),
        ("x".repeat(2_000_000), 600_000, ErrorKind::Protocol),
    ] {
        let server = Scripted::bind().await;
        let list = Sandbox::list(server.url()).timeout(Duration::from_millis(timeout));
        let script = async {
            for number in 0.. {
                let page = json!({
                    "sandboxes": [{"id": id, "state": "attached", "created_ms": 1}],
                    "next": format!("{number:09}"),
                });
                let (page, length) = (page.to_string(), page.to_string().len());
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{page}");
                server.try_answer(answer.as_bytes()).await;
            }
        };
        tokio::select! {
            listed = within("a list", list) => {
                let error = listed.unwrap_err();
                assert_eq!(error.kind(), kind, "{error}");
            }
            () = script => panic!("the client asks for every page"),
        }
    }
}

#[test]
fn a_plain_thread_and_a_runtime_of_its_own_can_list() {
    let runtime = Runtime::new(1).unwrap();
    futures::executor::block_on(async {
        let server = LocalServer::start().await.unwrap();
        let sandbox = Sandbox::create(server.url()).await.unwrap();
        for list in [
            Sandbox::list(server.url()),
            Sandbox::list(server.url()).runtime(&runtime),
        ] {
            let listed = list.await.unwrap();
            assert_eq!(listed[0].id, *sandbox.sandbox_id());
        }
        server.stop().await;
    });
}

#[actix::test]
async fn a_thousand_sandboxes_are_listed_by_label() {
    const COUNT: usize = 1_000;
    allow_open_files(2 * COUNT as u64 + 2_000);
    let server = backend::on_the_host().max_sandboxes(COUNT + 10);
    let server = server.start().await.unwrap();
    let url = server.url();
    let sandboxes: Vec<Sandbox> = stream::iter(0..COUNT)
        .map(|number| async move {
            let create = patient(url)
                .idle_timeout(Duration::from_secs(1_800))
                .label("parity", if number % 2 == 0 { "even" } else { "odd" })
                .label("number", number.to_string());
            within("create", create).await.expect("created")
        })
        .buffer_unordered(64)
        .collect()
        .await;
    let even = with_label(url, "parity", "even").await;
    assert_eq!(even.len(), COUNT / 2);
    assert!(even.iter().all(|it| it.labels["parity"] == "even"));
    let seventeen = with_label(url, "number", "17").await;
    assert_eq!(seventeen.len(), 1);
    let mut ids: Vec<_> = sandboxes.iter().map(|it| it.sandbox_id().clone()).collect();
    ids.sort();
    let listed = within("a list", Sandbox::list(url)).await.unwrap();
    assert!(listed.iter().map(|it| &it.id).eq(&ids));

    // A page is bounded, and leads to the next one.
    let (mut after, mut pages, mut found) = (String::new(), 0, 0);
    loop {
        let path = format!("/sandboxes?limit=300&label=parity%3Dodd&after={after}");
        let (_, body) = get(&server, &path, &[]).await;
        let page: Value = serde_json::from_str(&body).unwrap();
        (pages, found) = (
            pages + 1,
            found + page["sandboxes"].as_array().unwrap().len(),
        );
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!((pages, found), (2, COUNT / 2));

    let kills = stream::iter(&sandboxes).map(|sandbox| within("kill", sandbox.kill()));
    let kills: Vec<_> = kills.buffer_unordered(COUNT).collect().await;
    assert!(kills.iter().all(Result::is_ok), "{kills:?}");
    assert_eq!(with_label(url, "parity", "odd").await, []);
    within("stop", server.stop()).await;
}

/// A page ends at about 1 MiB, even if more sandboxes would fit.
#[actix::test]
async fn many_large_labels_are_listed_in_pages() {
    let server = backend::on_the_host().start().await.unwrap();
    let url = server.url();
    // About 110 kB in JSON, because a control character takes six bytes there.
    let value = "\u{1}".repeat(255);
    let create = || {
        (0..64).fold(patient(url), |it, number| {
            it.label(number.to_string(), &value)
        })
    };
    let creates = (0..20).map(|_| within("create", create()));
    let sandboxes = futures::future::try_join_all(creates).await.unwrap();
    let (_, body) = get(&server, "/sandboxes", &[]).await;
    assert!((1 << 20..3 << 19).contains(&body.len()), "{}", body.len());
    let listed = within("a list", Sandbox::list(url)).await.unwrap();
    assert_eq!(listed.len(), sandboxes.len());
    let kept = sandboxes[0].run(Language::Bash, "echo ok").await;
    assert_eq!(kept.unwrap().stdout, "ok\n");
    drop(sandboxes);
    within("stop", server.stop()).await;
}

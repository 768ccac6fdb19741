//! Who may look: sessions, tokens, origins and TLS at the running monitor.

mod support;

use monitor::config::Flags;
use monitor::{MonitorConfig, Service};
use reqwest::header;
use serde_json::{Value, json};
use std::path::Path;
use support::{Answer, StagedNode, wait_for};
use tokio_util::sync::{CancellationToken, DropGuard};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Running {
    address: String,
    _guard: DropGuard,
}

/// A monitor of one staged node with these keys in its config file.
async fn start(node: &StagedNode, folder: &Path, keys: Value) -> Running {
    let path = folder.join("monitor.json");
    let mut config = json!({ "nodes": [node.address], "interval": 0.1, "listen": "127.0.0.1:0" });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    std::fs::write(&path, config.to_string()).unwrap();
    let config = MonitorConfig::load(Flags { config: Some(path), ..Flags::default() }).unwrap();
    let service = Service::bind(config).await.unwrap();
    let address = service.address().unwrap().to_string();
    let end = CancellationToken::new();
    let guard = end.clone().drop_guard();
    tokio::spawn(service.run(end));
    Running { address, _guard: guard }
}

fn http() -> reqwest::Client {
    api::http::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn with_auth(folder: &Path) -> Value {
    use argon2::password_hash::PasswordHasher;
    let hash = argon2::Argon2::default().hash_password(b"right").unwrap().to_string();
    let token = folder.join("token");
    std::fs::write(&token, TOKEN).unwrap();
    json!({
        "enable_auth": true,
        "auth_users": [{ "username": "ann", "password_hash": hash, "role": "viewer" }],
        "access_token_file": token,
    })
}

#[tokio::test]
async fn a_login_opens_pages_and_a_token_the_api() {
    let node = StagedNode::start(Answer::Living(1, 1, 1)).await;
    let folder = tempfile::tempdir().unwrap();
    let monitor = start(&node, folder.path(), with_auth(folder.path())).await;
    let (http, url) = (http(), format!("http://{}", monitor.address));
    for path in ["/api/cluster", "/api/history?metric=writes", "/metrics", "/api/stream", "/api/none"] {
        let answer = http.get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer");
        assert!(answer.headers().contains_key(header::CONTENT_SECURITY_POLICY));
    }
    let page =
        http.get(format!("{url}/nodes/a?b=c")).header(header::ACCEPT, "text/html").send().await.unwrap();
    assert_eq!(page.status(), 303);
    assert_eq!(page.headers()[header::LOCATION], "/login?next=%2Fnodes%2Fa%3Fb%3Dc");
    let asked = http.get(format!("{url}/login?next=%2F%22%3E%3Cscript%3E")).send().await.unwrap();
    let text = asked.text().await.unwrap();
    assert!(text.contains("type=\"password\"") && !text.contains("<script>"), "{text}");
    let log_in = |password: &'static str| {
        let form = format!("username=ann&password={password}&next=%2Ftasks");
        let request = http.post(format!("{url}/login"));
        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form).send()
    };
    let wrong = log_in("wrong").await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert!(wrong.text().await.unwrap().contains("The name or the password is wrong."));
    let right = log_in("right").await.unwrap();
    assert_eq!(
        (right.status().as_u16(), right.headers()[header::LOCATION].to_str().unwrap()),
        (303, "/tasks")
    );
    let cookie = right.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    wait_for("the first round", || async {
        let answer =
            http.get(format!("{url}/api/cluster")).header(header::COOKIE, &cookie).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    let by_token = http.get(format!("{url}/metrics")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(by_token.status(), 200);
    let by_wrong = http.get(format!("{url}/metrics")).bearer_auth("x".repeat(32)).send().await.unwrap();
    assert_eq!(by_wrong.status(), 401);
    http.post(format!("{url}/logout")).header(header::COOKIE, &cookie).send().await.unwrap();
    let after = http.get(format!("{url}/api/cluster")).header(header::COOKIE, &cookie).send().await.unwrap();
    assert_eq!(after.status(), 401, "the session has ended");
}

#[tokio::test]
async fn a_page_of_another_origin_gets_nothing() {
    let node = StagedNode::start(Answer::Living(1, 1, 1)).await;
    let folder = tempfile::tempdir().unwrap();
    let monitor = start(&node, folder.path(), json!({ "host_names": ["mon.example.com"] })).await;
    let http = http();
    let url = format!("http://{}/metrics", monitor.address);
    let own = format!("http://{}", monitor.address);
    for (name, value, host, status) in [
        ("origin", own.as_str(), monitor.address.as_str(), 200),
        ("origin", "http://evil.example", monitor.address.as_str(), 403),
        ("origin", "null", monitor.address.as_str(), 403),
        ("accept-language", "en", "evil.example:8090", 403),
        ("accept-language", "en", "mon.example.com:8090", 200),
        ("accept", "*/*", "monitor.svc:8090", 200),
    ] {
        let answer = http.get(&url).header(name, value).header("host", host).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{name}: {value}, host {host}");
    }
}

#[tokio::test]
async fn pages_are_served_by_tls_and_a_renewed_certificate_counts() {
    let node = StagedNode::start(Answer::Living(1, 1, 1)).await;
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let renew = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::write(&cert, made.cert.pem()).unwrap();
        made.cert.pem()
    };
    let first = renew();
    let keys = json!({ "enable_tls": true, "cert_path": cert, "key_path": key });
    let monitor = start(&node, folder.path(), keys).await;
    let url = format!("https://{}/metrics", monitor.address);
    let trusting = |pem: &str| {
        let root = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
        api::http::builder().no_proxy().tls_certs_only([root]).build().unwrap()
    };
    // A client that connects and says nothing keeps nobody out.
    let _silent = tokio::net::TcpStream::connect(&monitor.address).await.unwrap();
    let metrics = trusting(&first).get(&url).send().await.unwrap().text().await.unwrap();
    let ends =
        metrics.lines().find_map(|l| l.strip_prefix("holdfast_tls_certificate_end_timestamp_seconds "));
    let ends: f64 = ends.expect("when the certificate ends").parse().unwrap();
    assert!(ends > jiff::Timestamp::now().as_second() as f64, "{ends}");
    // Half of a renewal: the files don't go together, and what was in force stays.
    std::fs::write(&key, "nothing").unwrap();
    assert_eq!(trusting(&first).get(&url).send().await.unwrap().status(), 200);
    let second = renew();
    assert_ne!(first, second);
    wait_for("the renewed certificate", || async { trusting(&second).get(&url).send().await.ok() }).await;
    assert!(trusting(&first).get(&url).send().await.is_err());
}

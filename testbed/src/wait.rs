//! Waiting for a condition, with a deadline, and with what was seen last in the error.

use crate::Error;
use std::future::Future;
use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until `look` gives a value; what it gave instead goes into the error.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, String>>,
{
    let began = Instant::now();
    loop {
        let last = match look().await {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if began.elapsed() >= limit {
            return Err(Error::TimedOut {
                what: what.to_owned(),
                waited_s: began.elapsed().as_secs_f64(),
                last,
                tail: Vec::new(),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A plain HTTP client for looks at one node: short limits, no retries, no following.
pub fn http() -> reqwest::Client {
    api::http::builder()
        .connect_timeout(Duration::from_millis(500))
        .timeout(Duration::from_secs(2))
        .build()
        .unwrap_or_default()
}

/// GET `url` as JSON; the error says what came instead.
pub async fn get<T: serde::de::DeserializeOwned>(http: &reqwest::Client, url: &str) -> Result<T, String> {
    let response =
        http.get(url).send().await.map_err(|e| format!("{url}: {}", api::client::error_chain(&e)))?;
    let status = response.status();
    let body = response.bytes().await.map_err(|e| format!("{url}: {}", api::client::error_chain(&e)))?;
    if !status.is_success() {
        return Err(format!("{url}: {status}: {}", excerpt(&body)));
    }
    serde_json::from_slice(&body).map_err(|e| format!("{url}: {e}: {}", excerpt(&body)))
}

/// True where `url` answers with success; the error says what came instead.
pub async fn answers(http: &reqwest::Client, url: &str) -> Result<(), String> {
    let response =
        http.get(url).send().await.map_err(|e| format!("{url}: {}", api::client::error_chain(&e)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = response.bytes().await.unwrap_or_default();
    Err(format!("{url}: {status}: {}", excerpt(&body)))
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(300).collect()
}

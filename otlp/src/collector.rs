//! The HTTP client to the collector.
//!
//! The SDK's threads wait for its answers, and only they. It runs on the program's own runtime,
//! with the client that the rest of the program uses.

use crate::bounded::Counts;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;

/// Bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Characters of a refusal that are told.
const MAX_SAID_CHARS: usize = 200;
/// The attribute that names the cluster.
const CLUSTER_ID: &str = "holdfast.cluster.id";

/// The cluster's id. A node's program begins to speak before it knows it, at its first start long
/// before, and the SDK's resource is made once: so it is added to what is sent.
pub(crate) type Cluster = Arc<OnceLock<String>>;

/// Sends what is encoded.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) client: reqwest::Client,
    pub(crate) runtime: Handle,
    pub(crate) cluster: Cluster,
    /// Told why something did not go through.
    pub(crate) counts: Counts,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let url = request.uri().clone();
        let answer = self.send(request).await;
        let why = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => {
                let said: String =
                    String::from_utf8_lossy(answer.body()).chars().take(MAX_SAID_CHARS).collect();
                Some(format!("{url} answered {}: {said:?}", answer.status()))
            }
            Err(error) => Some(format!("{url}: {error}")),
        };
        if let Some(why) = why {
            self.counts.failed_because(url.path(), why);
        }
        answer
    }
}

impl Collector {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, mut body) = request.into_parts();
        if let Some(cluster) = self.cluster.get() {
            body = with_cluster(parts.uri.path(), body, cluster)?;
        }
        let mut headers = parts.headers;
        // The length is that of the body as it is now.
        headers.remove(http::header::CONTENT_LENGTH);
        let request = self.client.request(parts.method, parts.uri.to_string()).headers(headers).body(body);
        let answer = self.runtime.spawn(answer(request)).await?;
        answer.map_err(|error| api::client::error_chain(&error).into())
    }
}

/// The answer to a request, as far as it is read.
async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Response<Bytes>> {
    let mut answer = request.send().await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = MAX_ANSWER_BYTES.saturating_sub(bytes.len());
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if room == 0 {
            break;
        }
    }
    let mut whole = Response::new(bytes.freeze());
    *whole.status_mut() = answer.status();
    Ok(whole)
}

/// The same message with the cluster's id among its resources' attributes.
fn with_cluster(path: &str, body: Bytes, cluster: &str) -> Result<Bytes, prost::DecodeError> {
    let add = |resource: &mut Option<Resource>| {
        let value = AnyValue { value: Some(any_value::Value::StringValue(cluster.to_owned())) };
        let attribute = KeyValue { key: CLUSTER_ID.to_owned(), value: Some(value), ..KeyValue::default() };
        resource.get_or_insert_with(Resource::default).attributes.push(attribute);
    };
    let encoded = match path.rsplit('/').next() {
        Some("traces") => {
            let mut message = ExportTraceServiceRequest::decode(body)?;
            message.resource_spans.iter_mut().for_each(|of| add(&mut of.resource));
            message.encode_to_vec()
        }
        Some("logs") => {
            let mut message = ExportLogsServiceRequest::decode(body)?;
            message.resource_logs.iter_mut().for_each(|of| add(&mut of.resource));
            message.encode_to_vec()
        }
        Some("metrics") => {
            let mut message = ExportMetricsServiceRequest::decode(body)?;
            message.resource_metrics.iter_mut().for_each(|of| add(&mut of.resource));
            message.encode_to_vec()
        }
        _ => return Ok(body),
    };
    Ok(encoded.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::trace::v1::ResourceSpans;

    #[test]
    fn the_cluster_is_named_in_every_message() {
        let spans = ResourceSpans { resource: None, ..ResourceSpans::default() };
        let message = ExportTraceServiceRequest { resource_spans: vec![spans.clone(), spans] };
        let sent = with_cluster("/v1/traces", message.encode_to_vec().into(), "c-1").unwrap();
        let read = ExportTraceServiceRequest::decode(sent).unwrap();
        assert_eq!(read.resource_spans.len(), 2);
        for of in read.resource_spans {
            let attributes = of.resource.unwrap().attributes;
            let [attribute] = attributes.as_slice() else { panic!("{attributes:?}") };
            assert_eq!(attribute.key, CLUSTER_ID);
            let value = attribute.value.clone().unwrap().value.unwrap();
            assert_eq!(value, any_value::Value::StringValue("c-1".into()));
        }
        assert!(with_cluster("/v1/logs", Bytes::from_static(b"\xff\xff"), "c-1").is_err());
    }
}

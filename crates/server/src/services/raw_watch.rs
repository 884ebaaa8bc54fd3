//! `Watch` on the wire: its messages are encoded once for all watchers, so they pass here as bytes.
//!
//! It takes the place of the generated route, and does what that would do with a codec that copies.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use futures::stream::BoxStream;
use roadstead_api::v1;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Response, Status};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::placement::Placement;
use super::{MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES};

/// The route.
pub(super) const PATH: &str = "/roadstead.v1.PlacementService/Watch";

/// Messages of a watch, encoded.
pub(super) type RawStream = BoxStream<'static, Result<Bytes, Status>>;

/// Serves `Watch`.
#[derive(Clone)]
pub(super) struct RawWatch {
    placement: Arc<Placement>,
}

impl RawWatch {
    pub(super) fn new(placement: Arc<Placement>) -> Self {
        Self { placement }
    }
}

impl<B> tower::Service<axum::http::Request<B>> for RawWatch
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    type Response = axum::http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<B>) -> Self::Future {
        let method = Method(Arc::clone(&self.placement));
        Box::pin(async move {
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_ANSWER_BYTES);
            Ok(grpc.server_streaming(method, request).await)
        })
    }
}

struct Method(Arc<Placement>);

impl ServerStreamingService<v1::WatchRequest> for Method {
    type Response = Bytes;
    type ResponseStream = RawStream;
    type Future = Pin<Box<dyn Future<Output = Result<Response<RawStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<v1::WatchRequest>) -> Self::Future {
        let placement = Arc::clone(&self.0);
        Box::pin(async move { placement.raw_watch(request).await.map(Response::new) })
    }
}

#[derive(Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = v1::WatchRequest;
    type Encoder = Copy;
    type Decoder = ProstDecoder<v1::WatchRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        Copy
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<v1::WatchRequest, v1::WatchRequest>::raw_decoder(tonic::codec::BufferSettings::default())
    }
}

struct Copy;

impl Encoder for Copy {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

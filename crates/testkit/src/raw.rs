//! CRI calls as bytes: what no typed client would send.

use prost::bytes::{Buf as _, BufMut as _};
use prost_reflect::ServiceDescriptor;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};

use crate::cri::{Answer, Cri, in_time};

/// One call of CRI.
#[derive(Clone, Debug)]
pub struct Method {
    /// Its name, as `RunPodSandbox`.
    pub name: String,
    /// The name of its request, as `RunPodSandboxRequest`.
    pub request: String,
    /// It answers with any number of messages.
    pub streams: bool,
    path: String,
}

/// Every call of both services, as the .proto file has them.
///
/// # Errors
/// If the descriptors do not decode.
pub fn methods() -> anyhow::Result<Vec<Method>> {
    let of = |service: ServiceDescriptor| {
        let own = service.full_name().to_owned();
        let methods: Vec<_> = service
            .methods()
            .map(|method| Method {
                name: method.name().to_owned(),
                request: method.input().name().to_owned(),
                streams: method.is_server_streaming(),
                path: format!("/{own}/{}", method.name()),
            })
            .collect();
        methods
    };
    Ok(crate::json::pool()?.services().flat_map(of).collect())
}

impl Cri {
    /// Sends these bytes as the request of a method, and gives the bytes of its answer.
    ///
    /// # Errors
    /// The server's status.
    pub async fn send(&self, method: &Method, bytes: Vec<u8>) -> Answer<Vec<u8>> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|why| Status::unavailable(why.to_string()))?;
        let path = PathAndQuery::try_from(method.path.as_str())
            .map_err(|why| Status::new(Code::Unknown, why.to_string()))?;
        grpc.unary(in_time(bytes), path, Bytes).await.map(tonic::Response::into_inner)
    }

    /// Sends these bytes as the request of a method that answers with a stream, and gives the bytes of
    /// its messages; of a stream without an end, whether it begins.
    ///
    /// # Errors
    /// The server's status.
    pub async fn send_for_many(&self, method: &Method, bytes: Vec<u8>) -> Answer<Vec<Vec<u8>>> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|why| Status::unavailable(why.to_string()))?;
        let path = PathAndQuery::try_from(method.path.as_str())
            .map_err(|why| Status::new(Code::Unknown, why.to_string()))?;
        let answer = grpc.server_streaming(in_time(bytes), path, Bytes).await?;
        let (mut stream, mut messages) = (answer.into_inner(), Vec::new());
        if method.name == "GetContainerEvents" {
            return Ok(messages);
        }
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        Ok(messages)
    }
}

/// Messages are bytes and stay so.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

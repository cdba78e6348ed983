//! Compiles the .proto files: the gRPC half and NRI with tonic and prost, the ttrpc half with rustprotobuf.

mod build_cri;
mod build_nri;
mod build_ttrpc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    build_cri::generate()?;
    build_nri::generate()?;
    build_ttrpc::generate()
}

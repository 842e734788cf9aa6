//! Links the programs so that librdkafka's unpacking of compressed batches comes to `kafka::unpack`, which bounds it.
//!
//! What must never happen here: a function wrapped that `crates/kafka/src/unpack.rs` does not have.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let functions = [
        "rd_kafka_lz4_decompress",
        "rd_kafka_zstd_decompress",
        "rd_kafka_snappy_java_uncompress",
        "rd_kafka_snappy_uncompressed_length",
    ];
    for function in functions {
        println!("cargo:rustc-link-arg=-Wl,--wrap={function}");
    }
}

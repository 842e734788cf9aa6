//! uploader

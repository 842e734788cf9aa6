//! From untrusted text to a licence that holds, or to the reason why not.
//!
//! Order matters: size, shape, signature, and only then the payload. [`parse_unverified`] leaves the signature out, for showing
//! what a file claims; nothing may be allowed on its word.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signature;
use jiff::Timestamp;

use crate::keys::VendorKey;
use crate::payload::Payload;
use crate::{MULTI_PARTITION, PREFIX};

/// Longest text that is looked at, in bytes.
pub const KEY_TEXT_BYTES_MAX: usize = 64 * 1024;

/// What a licence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// Names this licence among all of its vendor's.
    pub id: String,
    /// Who may use it.
    pub issued_to: String,
    /// First moment it holds.
    pub not_before: Timestamp,
    /// First moment it no longer holds.
    pub expires: Timestamp,
    /// What it allows.
    pub features: Vec<String>,
}

impl License {
    /// Whole days left at `now`, rounded down; 0 on the last day and after it.
    pub fn days_left(&self, now: Timestamp) -> u64 {
        u64::try_from(self.expires.duration_since(now).as_secs() / 86_400).unwrap_or(0)
    }

    /// Whether multi-partition operation is among the features.
    pub fn has_multi_partition(&self) -> bool {
        self.features.iter().any(|feature| feature == MULTI_PARTITION)
    }

    /// Whether the times hold at `now`.
    ///
    /// # Errors
    /// [`Invalid::NotYetValid`] or [`Invalid::Expired`].
    pub fn check_times(&self, now: Timestamp) -> Result<(), Invalid> {
        if now < self.not_before {
            return Err(Invalid::NotYetValid { not_before: self.not_before });
        }
        if now >= self.expires {
            return Err(Invalid::Expired { expires: self.expires });
        }
        Ok(())
    }
}

/// Why a licence does not hold. The texts are the REASON of `License status: License is not valid: REASON`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The key file could not be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The configured file.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
    /// Nothing but white space.
    #[error("the license key is empty")]
    Empty,
    /// More than [`KEY_TEXT_BYTES_MAX`].
    #[error("the license key is longer than {KEY_TEXT_BYTES_MAX} bytes: this is not a license key")]
    TooLong,
    /// Some other version of the format.
    #[error("the license key has format version {found:?}, this program reads version 1: ask for a new key")]
    WrongVersion {
        /// What stands where `1` should.
        found: String,
    },
    /// Not a licence key, or a damaged one.
    #[error("malformed license key: {0}")]
    Malformed(&'static str),
    /// No vendor key to check against.
    #[error("no vendor key to check it against: set license.public_key")]
    NoVendorKey,
    /// The vendor key itself is useless.
    #[error(
        "the vendor key of this program is not usable: it was built with a wrong STREAMSEND_LICENSE_PUBLIC_KEY"
    )]
    UnusableVendorKey,
    /// The signature is another's, or the text was changed.
    #[error("not signed by this vendor key, or tampered with")]
    BadSignature,
    /// Too late.
    #[error("expired on {}", when(*expires))]
    Expired {
        /// First moment it no longer held.
        expires: Timestamp,
    },
    /// Too early.
    #[error("not yet valid until {}", when(*not_before))]
    NotYetValid {
        /// First moment it will hold.
        not_before: Timestamp,
    },
    /// It is genuine, for something else.
    #[error("does not include the feature {MULTI_PARTITION:?}")]
    FeatureMissing,
}

/// A date for people: seconds, UTC.
fn when(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Checks a licence key in full: shape, signature, times, feature.
///
/// White space around the key (such as the line end of its file) is ignored.
///
/// # Errors
/// The first thing that is wrong, as a sentence for the operator.
pub fn check(key_text: &str, vendor: &VendorKey, now: Timestamp) -> Result<License, Invalid> {
    let parts = split(key_text)?;
    let verifying = vendor.verifying().ok_or(Invalid::UnusableVendorKey)?;
    verifying.verify_strict(parts.signed.as_bytes(), &parts.signature).map_err(|_| Invalid::BadSignature)?;
    let license = parse_payload(&parts.payload)?;
    license.check_times(now)?;
    if !license.has_multi_partition() {
        return Err(Invalid::FeatureMissing);
    }
    Ok(license)
}

/// [`check`] of a file; reads at most [`KEY_TEXT_BYTES_MAX`] bytes of it. A file that is missing or empty is not valid.
///
/// # Errors
/// Like [`check`], and [`Invalid::Unreadable`], [`Invalid::NoVendorKey`].
pub fn check_file(path: &Path, vendor: Option<&VendorKey>, now: Timestamp) -> Result<License, Invalid> {
    let unreadable =
        |error: std::io::Error| Invalid::Unreadable { path: path.into(), error: error.to_string() };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(KEY_TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > KEY_TEXT_BYTES_MAX {
        return Err(Invalid::TooLong);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Invalid::Malformed("it is not text"))?;
    if text.trim().is_empty() {
        return Err(Invalid::Empty);
    }
    check(text, vendor.ok_or(Invalid::NoVendorKey)?, now)
}

/// What a key claims, with nothing verified: only to be shown, never to be acted on.
///
/// # Errors
/// When the text has not the shape of a licence key.
pub fn parse_unverified(key_text: &str) -> Result<License, Invalid> {
    parse_payload(&split(key_text)?.payload)
}

struct Parts<'a> {
    /// All before the last dot.
    signed: &'a str,
    payload: Vec<u8>,
    signature: Signature,
}

fn split(key_text: &str) -> Result<Parts<'_>, Invalid> {
    if key_text.len() > KEY_TEXT_BYTES_MAX {
        return Err(Invalid::TooLong);
    }
    let text = key_text.trim();
    if text.is_empty() {
        return Err(Invalid::Empty);
    }
    if text.contains(char::is_whitespace) {
        return Err(Invalid::Malformed("it must be one line without spaces"));
    }
    let mut pieces = text.split('.');
    let (prefix, payload, signature) = (pieces.next().unwrap_or(""), pieces.next(), pieces.next());
    if prefix != PREFIX {
        return Err(match prefix.strip_prefix("streamsend-license-v") {
            Some(found) => Invalid::WrongVersion { found: found.chars().take(16).collect() },
            None => Invalid::Malformed("it does not begin with \"streamsend-license-v1.\""),
        });
    }
    let (Some(payload), Some(signature), None) = (payload, signature, pieces.next()) else {
        return Err(Invalid::Malformed("it must have three parts with a dot between them"));
    };
    let signed = &text[..PREFIX.len() + 1 + payload.len()];
    let payload =
        URL_SAFE_NO_PAD.decode(payload).map_err(|_| Invalid::Malformed("its payload is not base64url"))?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| Invalid::Malformed("its signature is not base64url"))?;
    let signature = Signature::from_slice(&signature)
        .map_err(|_| Invalid::Malformed("its signature has not 64 bytes"))?;
    Ok(Parts { signed, payload, signature })
}

fn parse_payload(json: &[u8]) -> Result<License, Invalid> {
    let payload: Payload = serde_json::from_slice(json).map_err(|_| {
        Invalid::Malformed("its payload is not JSON with id, issued_to, not_before, expires and features")
    })?;
    let not_before =
        payload.not_before.parse().map_err(|_| Invalid::Malformed("not_before is not an RFC 3339 time"))?;
    let expires =
        payload.expires.parse().map_err(|_| Invalid::Malformed("expires is not an RFC 3339 time"))?;
    Ok(License {
        id: payload.id,
        issued_to: payload.issued_to,
        not_before,
        expires,
        features: payload.features,
    })
}

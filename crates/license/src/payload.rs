//! What a licence says: the JSON inside a key, and making such a key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::keys::{KeyError, VendorSecret, random};
use crate::{KEY_TEXT_BYTES_MAX, PREFIX};

/// The JSON as it stands in the key. Members this version does not know are allowed: the vendor signed them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Payload {
    pub id: String,
    pub issued_to: String,
    pub not_before: String,
    pub expires: String,
    pub features: Vec<String>,
}

/// What a new licence shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Names this licence among all; `None` draws 16 random hexadecimal digits.
    pub id: Option<String>,
    /// Who may use it.
    pub issued_to: String,
    /// First moment it holds.
    pub not_before: Timestamp,
    /// First moment it no longer holds; after `not_before`.
    pub expires: Timestamp,
    /// What it allows, such as [`crate::MULTI_PARTITION`].
    pub features: Vec<String>,
}

/// Why a licence was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// `issued_to` or `id` is empty or has control characters.
    #[error("{0} must be text of one line, not empty")]
    BadText(&'static str),
    /// It would never hold.
    #[error("the licence would expire ({expires}) before it begins ({not_before})")]
    NeverValid {
        /// First moment it would hold.
        not_before: Timestamp,
        /// First moment it would no longer hold.
        expires: Timestamp,
    },
    /// Longer than any daemon would read.
    #[error("the licence would be longer than {KEY_TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// No randomness for the id.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Signs a licence; returns the one line for `license.key`, without a line end.
///
/// # Errors
/// When the terms make no sense; nothing is signed then.
pub fn issue(secret: &VendorSecret, terms: &Terms) -> Result<String, IssueError> {
    let one_line = |text: &str| !text.trim().is_empty() && !text.chars().any(char::is_control);
    let id = match &terms.id {
        Some(id) => id.clone(),
        None => random::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if !one_line(&id) {
        return Err(IssueError::BadText("the id"));
    }
    if !one_line(&terms.issued_to) {
        return Err(IssueError::BadText("the licensee's name"));
    }
    if terms.expires <= terms.not_before {
        return Err(IssueError::NeverValid { not_before: terms.not_before, expires: terms.expires });
    }
    let payload = Payload {
        id,
        issued_to: terms.issued_to.clone(),
        not_before: terms.not_before.to_string(),
        expires: terms.expires.to_string(),
        features: terms.features.clone(),
    };
    let json = serde_json::to_vec(&payload).expect("five fields of text always become JSON");
    let signed = format!("{PREFIX}.{}", URL_SAFE_NO_PAD.encode(json));
    let signature = secret.signing.sign(signed.as_bytes());
    let key = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()));
    if key.len() > KEY_TEXT_BYTES_MAX {
        return Err(IssueError::TooLong);
    }
    Ok(key)
}

//! The vendor's key pair, as text and as keys.
//!
//! What must never happen here: a public key that cannot verify anything (not a point of the curve, or of small order) is taken.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ed25519_dalek::{SigningKey, VerifyingKey};

const EITHER_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD_ANY: GeneralPurpose = GeneralPurpose::new(&STANDARD, EITHER_PADDING);
const URL_SAFE_ANY: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, EITHER_PADDING);

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 of either alphabet.
    #[error("not base64 text")]
    NotBase64,
    /// Base64 of something else.
    #[error("a key has 32 bytes, this text holds {0}")]
    WrongLength(usize),
    /// 32 bytes that are no usable Ed25519 public key.
    #[error("not a usable Ed25519 public key")]
    NotAKey,
    /// The system gave no randomness.
    #[error("no random numbers from the system: {0}")]
    NoRandomness(String),
}

/// The public half of a vendor's key pair; what licences are checked against.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VendorKey {
    bytes: [u8; 32],
}

impl std::fmt::Debug for VendorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VendorKey({})", self.to_base64())
    }
}

impl VendorKey {
    /// Reads a public key: 32 bytes in standard or URL-safe base64, padding optional, space around it ignored.
    ///
    /// # Errors
    /// Says what is wrong with the text; a key of small order is refused, as it would "verify" forged signatures.
    pub fn from_base64(text: &str) -> Result<VendorKey, KeyError> {
        let key = VendorKey { bytes: decode_32(text)? };
        key.verifying().map(|_| key).ok_or(KeyError::NotAKey)
    }

    /// The key as it is written into `vendor.pub` and into the configuration: standard base64, padded.
    pub fn to_base64(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.bytes)
    }

    pub(crate) fn verifying(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&self.bytes).ok().filter(|key| !key.is_weak())
    }
}

/// The secret half of a vendor's key pair. Its memory is wiped when it is dropped, and `Debug` does not show it.
pub struct VendorSecret {
    pub(crate) signing: SigningKey,
}

impl std::fmt::Debug for VendorSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VendorSecret(..)")
    }
}

impl VendorSecret {
    /// Makes a new key pair from the system's randomness.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<VendorSecret, KeyError> {
        Ok(VendorSecret { signing: SigningKey::from_bytes(&random()?) })
    }

    /// Reads a secret key as written by [`VendorSecret::to_base64`].
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn from_base64(text: &str) -> Result<VendorSecret, KeyError> {
        Ok(VendorSecret { signing: SigningKey::from_bytes(&decode_32(text)?) })
    }

    /// The secret as it is written into `vendor.key`: standard base64, padded. Keep it to the vendor.
    pub fn to_base64(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.signing.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> VendorKey {
        VendorKey { bytes: self.signing.verifying_key().to_bytes() }
    }
}

/// Makes a new vendor key pair: the same as [`VendorSecret::generate`].
///
/// # Errors
/// When the system gives no randomness.
pub fn keygen() -> Result<VendorSecret, KeyError> {
    VendorSecret::generate()
}

/// The vendor key this program was built with (`STREAMSEND_LICENSE_PUBLIC_KEY` at build time), which then is the only one believed.
///
/// The build refuses a key that is not 32 bytes of base64. 32 bytes that are no usable key are returned all the same: every licence
/// fails against them, where `None` would quietly let the configuration name another vendor.
pub fn pinned_vendor_key() -> Option<VendorKey> {
    pinned_from(option_env!("STREAMSEND_LICENSE_PUBLIC_KEY"))
}

fn pinned_from(text: Option<&str>) -> Option<VendorKey> {
    let text = text?.trim();
    if text.is_empty() {
        return None;
    }
    // All zeros is a point of small order, so nothing verifies against it.
    Some(VendorKey { bytes: decode_32(text).unwrap_or([0; 32]) })
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| KeyError::NoRandomness(error.to_string()))?;
    Ok(bytes)
}

fn decode_32(text: &str) -> Result<[u8; 32], KeyError> {
    let text = text.trim();
    if text.len() > 1024 {
        return Err(KeyError::WrongLength(text.len() / 4 * 3));
    }
    let bytes =
        STANDARD_ANY.decode(text).or_else(|_| URL_SAFE_ANY.decode(text)).map_err(|_| KeyError::NotBase64)?;
    <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError::WrongLength(bytes.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    #[test]
    fn a_key_is_read_in_either_alphabet_with_or_without_padding() {
        for _ in 0..20 {
            let key = keygen().unwrap().public();
            let standard = key.to_base64();
            let url = standard.replace('+', "-").replace('/', "_");
            for text in [&standard, &url, standard.trim_end_matches('='), &format!("  {url}\n")] {
                assert_eq!(VendorKey::from_base64(text).unwrap(), key, "{text}");
            }
        }
    }

    #[test]
    fn texts_that_are_no_key_are_refused() {
        assert_eq!(VendorKey::from_base64("not a key!"), Err(KeyError::NotBase64));
        assert_eq!(VendorKey::from_base64(""), Err(KeyError::WrongLength(0)));
        assert_eq!(VendorKey::from_base64("AAAA"), Err(KeyError::WrongLength(3)));
        assert!(matches!(VendorKey::from_base64(&"A".repeat(1_000_000)), Err(KeyError::WrongLength(_))));
        // The neutral point: every signature of zeros would hold against it.
        let mut neutral = [0u8; 32];
        neutral[0] = 1;
        let text = base64::engine::general_purpose::STANDARD.encode(neutral);
        assert_eq!(VendorKey::from_base64(&text), Err(KeyError::NotAKey));
    }

    #[test]
    fn a_secret_survives_its_text_and_is_not_shown() {
        let secret = keygen().unwrap();
        let again = VendorSecret::from_base64(&secret.to_base64()).unwrap();
        assert_eq!(secret.public(), again.public());
        assert_ne!(secret.public(), keygen().unwrap().public());
        assert!(!format!("{secret:?}").contains(&secret.to_base64()));
    }

    #[test]
    fn a_pinned_key_is_never_replaced_by_none() {
        assert!(pinned_from(None).is_none());
        assert!(pinned_from(Some("  ")).is_none());
        let key = keygen().unwrap().public();
        assert_eq!(pinned_from(Some(&key.to_base64())), Some(key));
        let broken = pinned_from(Some("garbage")).unwrap();
        assert!(broken.verifying().is_none());
    }
}

//! The text of a licence key, checked against a vendor's key.
//!
//! Promises: no panic; nothing holds that the vendor has not signed; memory is bounded by the text.

use crate::allocation::bounded;
use jiff::Timestamp;
use license::{VendorKey, VendorSecret};
use std::sync::OnceLock;

struct Vendor {
    secret: VendorSecret,
    key: VendorKey,
    good: String,
}

/// The same every time: a run must be repeatable.
fn vendor() -> &'static Vendor {
    static VENDOR: OnceLock<Vendor> = OnceLock::new();
    VENDOR.get_or_init(|| {
        let secret =
            VendorSecret::from_base64("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=").expect("32 bytes");
        let terms = license::Terms {
            id: Some("1".to_owned()),
            issued_to: "ACME".to_owned(),
            not_before: Timestamp::UNIX_EPOCH,
            expires: Timestamp::MAX,
            features: vec![license::MULTI_PARTITION.to_owned()],
        };
        let good = license::issue(&secret, &terms).expect("good terms");
        let key = secret.public();
        Vendor { secret, key, good }
    })
}

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Vendor { key, good, .. } = vendor();
    let now = Timestamp::UNIX_EPOCH;
    let limit = 64 * 1024 + 64 * text.len();
    let checked = bounded("a licence key", limit, || license::check(&text, key, now));
    match checked {
        // Everything but white space around it is signed.
        Ok(license) => {
            assert_eq!(text.trim(), good, "only what the vendor signed holds");
            assert_eq!(license.issued_to, "ACME");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let claimed = bounded("a licence key", limit, || license::parse_unverified(&text));
    if let Ok(license) = claimed {
        let _ =
            (license.days_left(Timestamp::MIN), license.days_left(Timestamp::MAX), license.check_times(now));
    }
    if let Ok(key) = VendorKey::from_base64(&text) {
        let _ = license::check(good, &key, now);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let Vendor { secret, good, .. } = vendor();
    let texts = [
        good.clone(),
        format!(" {good}\n"),
        good.replace("v1", "v2"),
        "streamsend-license-v1..".to_owned(),
        secret.public().to_base64(),
        String::new(),
    ];
    texts.into_iter().map(String::into_bytes).collect()
}

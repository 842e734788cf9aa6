//! Checks the vendor key that is pinned at build time, so that a mistyped key stops the build and not a customer.

const VARIABLE: &str = "STREAMSEND_LICENSE_PUBLIC_KEY";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    // 32 bytes are 43 characters of base64, and one sign of padding where padding is written.
    let key = text.strip_suffix('=').unwrap_or(text);
    let alphabet = |c: char| c.is_ascii_alphanumeric() || "+/-_".contains(c);
    assert!(
        key.len() == 43 && key.chars().all(alphabet),
        "{VARIABLE} is not a vendor public key: expected 32 bytes in base64 (44 characters, as in vendor.pub)"
    );
}

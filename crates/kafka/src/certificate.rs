//! Says what is wrong with a broker's certificate, where OpenSSL and librdkafka only say that something is.
//!
//! What must never happen here: a certificate accepted that OpenSSL refused, a panic leaving a callback.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::bindings as sys;

use crate::client::Context;

/// OpenSSL's number for a certificate that is in order.
const IN_ORDER: c_int = 0;

/// Makes the client of `conf` note why it refuses a certificate.
///
/// # Safety
/// `conf` is live, and its opaque is a [`Context`] that outlives the client.
pub(crate) unsafe fn install(conf: *mut sys::rd_kafka_conf_t) {
    // SAFETY: live by contract. Where librdkafka was built without TLS it refuses, and there is nothing to explain.
    unsafe { sys::rd_kafka_conf_set_ssl_cert_verify_cb(conf, Some(on_certificate)) };
}

/// Called for each certificate of the chain after OpenSSL's own judgement, which is returned unchanged.
unsafe extern "C" fn on_certificate(
    _rk: *mut sys::rd_kafka_t,
    _broker: *const c_char,
    _broker_id: i32,
    judgement: *mut c_int,
    _depth: c_int,
    _certificate: *const c_char,
    _size: usize,
    _error: *mut c_char,
    _error_size: usize,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: librdkafka passes a place with OpenSSL's number.
    let judgement = unsafe { judgement.as_ref() }.copied().unwrap_or(-1);
    if judgement == IN_ORDER {
        return 1;
    }
    // Noting it may fail; the refusal stands.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the opaque is the context given at creation, alive as long as the client.
        if let Some(context) = unsafe { opaque.cast::<Context>().as_ref() } {
            context.complaints.note_certificate(explain(judgement));
        }
    }));
    0
}

/// OpenSSL's `X509_V_ERR_…` for people: what is wrong, and what to do.
fn explain(judgement: c_int) -> String {
    match judgement {
        9 => "the broker's certificate is not valid yet: check the clock of this machine".to_owned(),
        10 => "the broker's certificate has expired: renew it, and check the clock of this machine".to_owned(),
        2 | 18..=21 => "the broker's certificate comes from an authority that is not known here: set ssl.ca.location to the \
                        file with that authority's certificate"
            .to_owned(),
        62 | 64 => "the broker's certificate is for another host: use a name that stands in it as bootstrap server, or have it \
                    renewed with this name"
            .to_owned(),
        other => format!("the broker's certificate was refused (OpenSSL's verify error {other})"),
    }
}

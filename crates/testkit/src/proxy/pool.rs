//! A real broker behind several links, for all scenarios of this process: each borrows a link of its own.
//!
//! What must never happen here: two scenarios on one link, or a link given back in bad weather.

use std::ops::Deref;
use std::sync::{Mutex, OnceLock};

use super::{Proxy, lock};
use crate::broker::Broker;
use crate::wait::{LONG, wait_for};

/// Links of the one broker, and so scenarios that can run at one time; further ones wait.
const LINKS: usize = 6;

struct Pool {
    broker: Broker,
    free: Mutex<Vec<Proxy>>,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let links: Vec<Proxy> = (0..LINKS).map(|_| Proxy::start()).collect();
        let mut builder = Broker::builder();
        for link in &links {
            let listener = builder.link(link.address());
            link.lead_to(listener);
        }
        Pool { broker: builder.start(), free: Mutex::new(links) }
    })
}

/// A link that is borrowed.
#[derive(Debug)]
pub struct Link {
    proxy: Option<Proxy>,
}

impl Link {
    /// Borrows a link in fair weather; waits for one if all are in use.
    ///
    /// # Panics
    /// When none becomes free.
    pub fn borrow() -> Link {
        let pool = pool();
        let proxy = wait_for(LONG * 10, || lock(&pool.free).pop());
        assert!(proxy.is_some(), "a link becomes free when its scenario ends");
        Link { proxy }
    }

    /// The broker behind it, without the link between.
    pub fn broker(&self) -> &'static Broker {
        &pool().broker
    }
}

impl Deref for Link {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        self.proxy.as_ref().expect("only drop takes it away")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(proxy) = self.proxy.take() else { return };
        proxy.heal();
        proxy.lose_produce_answers(0);
        proxy.name_no_brokers(0);
        proxy.cut();
        lock(&pool().free).push(proxy);
    }
}

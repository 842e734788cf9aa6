//! Giving rights, where the broker keeps a list of them.
//!
//! What must never happen here: a right given to more than the one user and thing named.

use std::time::{Duration, Instant};

use rdkafka::bindings as sys;

use crate::admin::Admin;
use crate::ffi;
use crate::request::Request;
use crate::{Error, Result};

/// What a right is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing<'a> {
    /// The topic of this name.
    Topic(&'a str),
    /// The consumer group of this name.
    Group(&'a str),
}

/// What a right allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Look it up.
    Describe,
    /// Read it; of a group: commit offsets.
    Read,
    /// Send records.
    Write,
    /// Ask for its configuration.
    DescribeConfigs,
}

impl Admin {
    /// Lets `user` (as in `sasl.username`) do that with that thing, from any host. Waits up to `timeout`.
    pub fn allow(&self, user: &str, act: Act, thing: Thing<'_>, timeout: Duration) -> Result<()> {
        use sys::rd_kafka_AclOperation_t as Operation;
        use sys::rd_kafka_ResourceType_t as Kind;
        let (kind, name) = match thing {
            Thing::Topic(name) => (Kind::RD_KAFKA_RESOURCE_TOPIC, name),
            Thing::Group(name) => (Kind::RD_KAFKA_RESOURCE_GROUP, name),
        };
        let operation = match act {
            Act::Describe => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE,
            Act::Read => Operation::RD_KAFKA_ACL_OPERATION_READ,
            Act::Write => Operation::RD_KAFKA_ACL_OPERATION_WRITE,
            Act::DescribeConfigs => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS,
        };
        let c_name = ffi::c_string("the name", name)?;
        let c_user = ffi::c_string("the user", &format!("User:{user}"))?;
        let err = Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEACLS)
            .create_acl(kind, &c_name, &c_user, operation, Instant::now() + timeout)?;
        if err == ffi::code::NONE { Ok(()) } else { Err(Error::Other(ffi::describe(err))) }
    }
}

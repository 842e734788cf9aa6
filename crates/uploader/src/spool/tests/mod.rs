//! The spool thread against real folders. Whatever comes here in time came by events: the periodic scan is an hour away.

mod arrivals;
mod dry_runs;
mod folders;
mod trouble;

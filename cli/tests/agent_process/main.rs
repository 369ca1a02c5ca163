//! The real program as an agent, a process of its own: killed with SIGKILL at any moment,
//! the standby that commits wait for, and without a store for hours.

mod house;
mod killed;
mod outage;
mod synchronous;

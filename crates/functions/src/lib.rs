//! How functions get called: containers, the pool that reuses them, inputs and results.
//!
//! A [`Pool`] serves one function of a running app. It starts containers when inputs wait, hands each container one
//! input at a time, keeps idle ones, and turns whatever ends a container (an exit, a signal, want of memory, a timeout)
//! into an error of the input that ran in it. Arguments and results pass through as opaque payloads; large ones travel as
//! descriptors and are never copied here. An input goes from the caller's thread straight into the container's socket,
//! a result from the container's thread straight to the caller: there is no queue or thread between them.

mod aside;
mod bytecode;
mod container;
mod error;
mod ids;
mod output;
mod pool;
mod retries;
mod runner;
mod sandbox;
mod spec;
mod starter;
mod state;
mod terminal;

pub use bytecode::{Bytecode, BytecodeError};
pub use error::{CallError, signal_name};
pub use ids::random_id;
pub use pool::{Caller, Outcome, Pool, PoolOptions};
pub use retries::Retries;
pub use runner::{FromRunner, Module, Pickle, ResultStatus, ToRunner};
pub use sandbox::{PACKAGE_TARGET, SandboxStarter};
pub use spec::{ContainerSpec, DEFAULT_PATH, ServiceKind, ServiceSpec};
pub use starter::{ContainerEnd, ContainerProcess, ContainerStarter, StartError, StartedContainer};
pub use terminal::Terminal;

#[cfg(test)]
mod tests;

//! How functions get called: containers, the pool that reuses them, inputs and results.
//!
//! [`Services`] are what a running app offers; a [`Pool`] serves one of them. It starts containers when inputs wait, hands
//! each container as many inputs as it takes at a time, keeps idle ones, and turns whatever ends a container (an exit, a signal, want of memory, a timeout)
//! into an error of the input that ran in it. Arguments and results pass through as opaque payloads; large ones travel as
//! descriptors and are never copied here. An input goes from the caller's thread straight into the container's socket,
//! a result from the container's thread straight to the caller: there is no queue or thread between them, unless a
//! container does not read. A caller is a session of the engine or the runner in a container, which may call what is in
//! its own app.

mod answer;
mod aside;
mod bytecode;
mod call;
mod calls;
mod container;
mod deadlock;
mod elsewhere;
mod errands;
mod error;
mod graph;
mod holdings;
mod ids;
mod library;
mod link;
mod marks;
mod options;
mod output;
mod pool;
mod question;
mod retries;
mod roster;
mod runner;
mod sandbox;
mod services;
mod spawned;
mod spec;
mod starter;
mod state;
mod terminal;

pub use answer::{CallAnswer, CallStatus};
pub use bytecode::{Bytecode, BytecodeError};
pub use call::{Caller, Outcome};
pub use calls::{Calls, OpenCall};
pub use elsewhere::{AppReference, Callee, Elsewhere, ElsewhereAnswer, KeptQuestion, OtherApp, Purpose, Service};
pub use errands::{Errands, OpenErrands};
pub use error::{CallError, signal_name};
pub use graph::{call_graph, end_with_their_process, input_graph, lost_input};
pub use ids::{CallId, FunctionCallId};
pub use library::Library;
pub use options::PoolOptions;
pub use pool::Pool;
pub use question::PoolQuestion;
pub use retries::Retries;
pub use roster::{AppLabel, Backlog, ListedShell, Listing, Piece, Printed, Roster, RunningContainer};
pub use runner::{
    ContainerVolume, FromRunner, Module, Parameter, ParameterKind, Pickle, ResultStatus, RunnerRequest, RunnerResult,
    ServiceKind, ToRunner, VariantRequest,
};
pub use sandbox::SandboxStarter;
pub use services::{MakeVariant, Services};
pub use spawned::{KeepsCalls, SpawnedCall};
pub use spec::{ContainerSpec, ServiceSpec};
pub use starter::{ContainerEnd, ContainerProcess, ContainerStarter, StartError, StartedContainer};
pub use state::{Batching, Scaling, Stats};
pub use terminal::Terminal;

/// Stack of a thread that only forwards, waits or closes.
const STACK_SIZE: usize = 256 << 10;

#[cfg(test)]
mod tests;

//! GPUs of this machine, and what a container needs to use them: device nodes, the driver's libraries, variables.
//!
//! What there is, specifications of the Container Device Interface (CDI) say, or else the NVIDIA driver itself. Nothing is
//! read before something asks for a GPU. What a specification has run while a container is made (a hook) is done here, and
//! no program of the host or of the image is executed for it.

mod cdi;
mod edits;
mod elf;
mod error;
mod inventory;
mod lender;
mod loader_cache;
mod look;
mod nvidia;
mod setting;
mod types;
mod uses;

pub use error::DevicesError;
pub use inventory::{Gpu, Inventory};
pub use lender::{Lease, Lender};
pub use look::jobs;
pub use nvidia::cuda_version;
pub use setting::GpuSetting;

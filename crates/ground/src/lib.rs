//! What every crate stands on: advice for errors, the classes that Python knows them by, identifiers, times,
//! environment variables, the record of a run, and what lies on what in the store.
//!
//! Errors keep their kind on the way to the user: each enum of errors says by [`Hint`] what to do about it, and
//! [`Refusal`] is the operating system's answer as data, which can cross a socket. Nobody looks for words in a text.

mod class;
mod file_error;
mod hint;
mod id;
mod name;
mod null;
mod refusal;
mod run_record;
mod similar;
mod stack;
mod store_path;
mod time;
mod variables;

pub use class::ErrorClass;
pub use file_error::FileError;
pub use hint::{Hint, causes};
pub use id::{ALPHABET, random_id, random_name};
pub use name::{is_app_id, is_object_name};
pub use null::null_device;
pub use refusal::{Refusal, Subject};
pub use run_record::{RunRecord, run_records};
pub use similar::{distance, nearest};
pub use stack::Stack;
pub use store_path::StorePath;
pub use time::{microseconds_since_1970, seconds_since_1970};
pub use variables::EnvVars;

/// Where programs are looked for when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

//! Calls that were spawned and are kept, so that others get their results, also when this process has gone.

use std::sync::{Arc, Weak};

use lamina_wire::Payload;

use crate::answer::CallStatus;
use crate::call::Caller;
use crate::calls::Calls;
use crate::elsewhere::Callee;
use crate::ids::{CallId, FunctionCallId};
use crate::pool::Pool;
use crate::runner::VariantRequest;

/// A call that was spawned.
#[derive(Debug)]
pub struct SpawnedCall<'a> {
    /// Its id in this process.
    pub id: CallId,
    /// The id of its function call, and behind it the number of its input if that is not the first one.
    pub name: String,
    /// The function or class.
    pub function: &'a str,
    /// The method of a class.
    pub method: Option<&'a str>,
    /// The module that it is in.
    pub module: &'a str,
    /// The variant that it is of.
    pub variant: Option<Arc<VariantRequest>>,
}

impl<'a> SpawnedCall<'a> {
    /// A call of `pool`, whose variant the connection of `calls` knows under the label `variant`.
    #[must_use]
    pub fn new(
        id: CallId,
        name: String,
        pool: &'a Pool,
        method: Option<&'a str>,
        calls: &Calls,
        variant: Option<u64>,
    ) -> Self {
        let variant = variant.and_then(|label| calls.variant_request(label));
        Self { id, name, function: pool.name(), method, module: pool.module(), variant }
    }

    /// The name of an input of a function call: of its first one, or, where it has several (`is_map`), of the one with this
    /// `index`. One that has none is not kept.
    #[must_use]
    pub fn name(part_of: FunctionCallId, is_map: bool, index: Option<u64>) -> Option<String> {
        if is_map { index.map(|index| Self::further(&part_of.to_string(), index)) } else { Some(part_of.to_string()) }
    }

    /// The name of a further input of the call with this id.
    #[must_use]
    pub fn further(part_of: &str, index: u64) -> String {
        format!("{part_of}-{index}")
    }
}

/// What keeps spawned calls.
pub trait KeepsCalls: Send + Sync {
    /// Keeps a call before it runs; gives who is to hear how it ends in the place of `caller`.
    ///
    /// # Errors
    /// When it cannot be kept: it must not run then.
    fn keep(
        self: Arc<Self>,
        call: &SpawnedCall<'_>,
        callee: Weak<dyn Callee>,
        input: &Payload,
        caller: Arc<dyn Caller>,
    ) -> Result<Arc<dyn Caller>, CallStatus>;
}

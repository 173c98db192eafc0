//! Dictionaries and queues: what programs and containers ask of them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_collections::{Collection, CollectionName, Collections, CollectionsError, Kind, Reference, Until};
use lamina_events::CancelToken;
use lamina_functions::{CallStatus, Errands};
use lamina_ground::{ErrorClass, Hint, causes};
use lamina_wire::{MEMORY_THRESHOLD, Payload, read_memory, write_memory};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The most bytes that come with one errand.
const MOST_BYTES: u64 = 512 << 20;
/// After so many bytes an answer with entries or values ends, and the rest is asked for anew.
const PORTION: usize = 4 << 20;

/// What to do. `parts` are the lengths of what the payload holds, one behind the other; without them it is one part.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Errand {
    /// Tell about a collection, which is made if the reference says so.
    Find { kind: Kind, of: Reference },
    /// Make one.
    Create { kind: Kind, of: CollectionName, allow_existing: bool },
    /// Make one that ends with this process.
    CreateEphemeral { kind: Kind },
    /// Tell which there are.
    List { kind: Kind, environment: String },
    /// Remove one.
    Delete {
        kind: Kind,
        of: CollectionName,
        #[serde(default)]
        allow_missing: bool,
    },
    /// Remove one that would end with this process.
    DeleteEphemeral { id: String },
    /// The value of a key.
    Get { id: String },
    /// Whether a key has a value.
    Contains { id: String },
    /// Put entries: keys and values in turn.
    Put {
        id: String,
        parts: Vec<usize>,
        #[serde(default)]
        if_missing: bool,
    },
    /// Take an entry out.
    Pop { id: String },
    /// How many entries there are.
    Count { id: String },
    /// Remove all entries.
    ClearDict { id: String },
    /// Entries behind that number.
    Entries { id: String, after: i64 },
    /// Put values into a partition.
    Push {
        id: String,
        partition: String,
        parts: Vec<usize>,
        lifetime: u64,
        #[serde(flatten)]
        patience: Patience,
    },
    /// Take values of a partition.
    Take {
        id: String,
        partition: String,
        most: usize,
        #[serde(flatten)]
        patience: Patience,
    },
    /// Values of a partition behind that number, which stay.
    Peek {
        id: String,
        partition: String,
        after: i64,
        most: usize,
        #[serde(flatten)]
        patience: Patience,
    },
    /// How many values a partition, or all of them, have.
    Length { id: String, partition: Option<String> },
    /// Remove the values of a partition, or all.
    ClearQueue { id: String, partition: Option<String> },
}

/// How long to wait: seconds, or for ever.
#[derive(Debug, Deserialize)]
struct Patience {
    timeout: Option<f64>,
}

impl Patience {
    fn until(&self, cancel: &CancelToken) -> Until {
        let seconds =
            self.timeout.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
        Until { time: seconds.and_then(|seconds| Instant::now().checked_add(seconds)), cancel: cancel.clone() }
    }
}

/// Does errands with the collections of a store.
#[derive(Debug)]
pub(crate) struct CollectionErrands(pub(crate) Arc<Collections>);

impl Errands for CollectionErrands {
    fn waits(&self, errand: &Map<String, Value>) -> bool {
        errand.get("timeout").is_some_and(|timeout| timeout.as_f64() != Some(0.0))
    }

    fn run(
        &self,
        errand: Map<String, Value>,
        payload: Payload,
        cancel: &CancelToken,
    ) -> Result<(Value, Payload), CallStatus> {
        let errand = serde_json::from_value(Value::Object(errand))
            .map_err(|error| refused(format!("the request to a dict or queue is not understood: {error}")))?;
        let payload = read(payload)?;
        let (value, bytes) = self.execute(errand, &payload, cancel)?;
        Ok((value, written(bytes)?))
    }
}

impl CollectionErrands {
    fn execute(&self, errand: Errand, payload: &[u8], cancel: &CancelToken) -> Result<(Value, Vec<u8>), CallStatus> {
        let Self(all) = self;
        let plain = |value: Value| Ok((value, Vec::new()));
        match errand {
            Errand::Find { kind, of } => plain(described(&all.find(kind, &of).map_err(failed)?)),
            Errand::Create { kind, of, allow_existing } => {
                plain(described(&all.make(kind, &of, allow_existing).map_err(failed)?))
            }
            Errand::CreateEphemeral { kind } => plain(described(&all.make_ephemeral(kind).map_err(failed)?)),
            Errand::List { kind, environment } => {
                plain(all.list(kind, &environment).map_err(failed)?.iter().map(described).collect())
            }
            Errand::Delete { kind, of, allow_missing } => match all.delete(kind, &of) {
                Err(CollectionsError::NotFound { .. }) if allow_missing => plain(Value::Null),
                deleted => plain(deleted.map(|()| Value::Null).map_err(failed)?),
            },
            Errand::DeleteEphemeral { id } => plain(all.delete_ephemeral(&id).map(|()| Value::Null).map_err(failed)?),
            Errand::Get { id } => Ok(maybe(all.get(&id, payload).map_err(failed)?)),
            Errand::Pop { id } => Ok(maybe(all.pop(&id, payload).map_err(failed)?)),
            Errand::Contains { id } => plain(all.contains(&id, payload).map_err(failed)?.into()),
            Errand::Put { id, parts, if_missing } => {
                let parts = divide(payload, &parts)?;
                let (pairs, rest) = parts.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err(refused("a key came without a value"));
                }
                let entries: Vec<_> = pairs.iter().map(|[key, value]| (*key, *value)).collect();
                plain(all.put(&id, &entries, if_missing).map_err(failed)?.into())
            }
            Errand::Count { id } => plain(all.count(&id).map_err(failed)?.into()),
            Errand::ClearDict { id } => plain(all.clear_dict(&id).map(|()| Value::Null).map_err(failed)?),
            Errand::Entries { id, after } => {
                let entries = all.entries(&id, after, PORTION).map_err(failed)?;
                let lengths = entries.iter().map(|it| json!([it.number, it.key.len(), it.value.len()])).collect();
                Ok((lengths, entries.into_iter().flat_map(|it| [it.key, it.value]).collect::<Vec<_>>().concat()))
            }
            Errand::Push { id, partition, parts, lifetime, patience } => {
                let values = divide(payload, &parts)?;
                let until = patience.until(cancel);
                plain(all.push(&id, partition.as_bytes(), &values, lifetime, &until).map_err(failed)?.into())
            }
            Errand::Take { id, partition, most, patience } => {
                let until = patience.until(cancel);
                let values = all.take(&id, partition.as_bytes(), most, &until).map_err(failed)?;
                Ok((values.iter().map(Vec::len).collect(), values.concat()))
            }
            Errand::Peek { id, partition, after, most, patience } => {
                let until = patience.until(cancel);
                let values = all.peek(&id, partition.as_bytes(), after, most, &until).map_err(failed)?;
                let lengths = values.iter().map(|(number, value)| json!([number, value.len()])).collect();
                Ok((lengths, values.into_iter().map(|(_, value)| value).collect::<Vec<_>>().concat()))
            }
            Errand::Length { id, partition } => {
                plain(all.length(&id, partition.as_deref().map(str::as_bytes)).map_err(failed)?.into())
            }
            Errand::ClearQueue { id, partition } => {
                let cleared = all.clear_queue(&id, partition.as_deref().map(str::as_bytes));
                plain(cleared.map(|()| Value::Null).map_err(failed)?)
            }
        }
    }
}

/// A collection as programs know it.
fn described(collection: &Collection) -> Value {
    let (name, environment) = collection.name.as_ref().map(|it| (&it.name, &it.environment)).unzip();
    json!({ "id": collection.id, "name": name, "environment": environment, "created": collection.created })
}

/// Whether there is a value, and the value.
fn maybe(value: Option<Vec<u8>>) -> (Value, Vec<u8>) {
    (value.is_some().into(), value.unwrap_or_default())
}

/// The parts of a payload.
fn divide<'a>(payload: &'a [u8], lengths: &[usize]) -> Result<Vec<&'a [u8]>, CallStatus> {
    let mut rest = payload;
    let mut parts = Vec::with_capacity(lengths.len());
    for length in lengths {
        let Some((part, following)) = rest.split_at_checked(*length) else {
            return Err(refused("the parts of a request are longer than the request"));
        };
        parts.push(part);
        rest = following;
    }
    Ok(parts)
}

fn read(payload: Payload) -> Result<Vec<u8>, CallStatus> {
    if payload.len() > MOST_BYTES {
        let message = format!("the request has {} bytes, and at most {MOST_BYTES} are possible", payload.len());
        return Err(CallStatus::error(ErrorClass::RequestSizeError, message));
    }
    match payload {
        Payload::Inline(bytes) => Ok(bytes),
        Payload::Memory(fd, length) => read_memory(fd, length)
            .map_err(|error| refused(format!("what came with the request cannot be read: {error}"))),
    }
}

fn written(bytes: Vec<u8>) -> Result<Payload, CallStatus> {
    if bytes.len() <= MEMORY_THRESHOLD {
        return Ok(Payload::Inline(bytes));
    }
    let memory = write_memory(&bytes).map_err(|error| refused(format!("the value cannot be handed over: {error}")))?;
    Ok(Payload::Memory(memory, bytes.len() as u64))
}

fn refused(message: impl Into<String>) -> CallStatus {
    CallStatus::error(ErrorClass::ExecutionError, message.into())
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` calls")]
fn failed(error: CollectionsError) -> CallStatus {
    CallStatus::Error { error: error.class(), message: causes(&error), hint: error.hint().map(Cow::into_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(errands: &CollectionErrands, errand: &str, payload: &[u8]) -> Result<(Value, Vec<u8>), CallStatus> {
        let errand = serde_json::from_str(errand).unwrap();
        let (value, payload) = errands.run(errand, Payload::Inline(payload.to_vec()), &CancelToken::new())?;
        Ok((value, read(payload).unwrap()))
    }

    #[test]
    fn requests_are_pinned() {
        let directory = tempfile::tempdir().unwrap();
        let errands = CollectionErrands(Arc::new(Collections::new(directory.path().to_owned())));
        let find = r#"{"do":"find","kind":"dict","of":{"environment":"main","name":"d","create":true}}"#;
        let (dict, _) = run(&errands, find, b"").unwrap();
        assert_eq!(dict["name"], "d");
        let of = |text: &str| text.replace("ID", dict["id"].as_str().unwrap());
        let put = of(r#"{"do":"put","id":"ID","parts":[1,2,1,0]}"#);
        assert_eq!(run(&errands, &put, b"a12b").unwrap().0, true);
        assert_eq!(run(&errands, &of(r#"{"do":"get","id":"ID"}"#), b"a").unwrap(), (true.into(), b"12".to_vec()));
        assert_eq!(run(&errands, &of(r#"{"do":"get","id":"ID"}"#), b"x").unwrap(), (false.into(), Vec::new()));
        let entries = run(&errands, &of(r#"{"do":"entries","id":"ID","after":0}"#), b"").unwrap();
        assert_eq!(entries, (json!([[1, 1, 2], [2, 1, 0]]), b"a12b".to_vec()));
        for wrong in
            [r#"{"do":"put","id":"ID","parts":[9,9]}"#, r#"{"do":"put","id":"ID","parts":[1]}"#, r#"{"do":"x"}"#]
        {
            assert!(matches!(run(&errands, &of(wrong), b"ab"), Err(CallStatus::Error { .. })), "{wrong}");
        }
        let (queue, _) = run(&errands, r#"{"do":"create_ephemeral","kind":"queue"}"#, b"").unwrap();
        let of = |text: &str| text.replace("ID", queue["id"].as_str().unwrap());
        let push = of(r#"{"do":"push","id":"ID","partition":"","parts":[1,1],"lifetime":60,"timeout":0}"#);
        assert_eq!(run(&errands, &push, b"xy").unwrap().0, true);
        let peek = of(r#"{"do":"peek","id":"ID","partition":"","after":1,"most":5,"timeout":0}"#);
        assert_eq!(run(&errands, &peek, b"").unwrap(), (json!([[2, 1]]), b"y".to_vec()));
        let take = of(r#"{"do":"take","id":"ID","partition":"","most":5,"timeout":null}"#);
        assert_eq!(run(&errands, &take, b"").unwrap(), (json!([1, 1]), b"xy".to_vec()));
        assert_eq!(run(&errands, &of(r#"{"do":"length","id":"ID","partition":null}"#), b"").unwrap().0, 0);
    }

    #[test]
    fn large_values_travel_in_memory() {
        let bytes = vec![7; MEMORY_THRESHOLD + 1];
        let payload = written(bytes.clone()).unwrap();
        assert!(matches!(payload, Payload::Memory(..)));
        assert_eq!(read(payload).unwrap(), bytes);
    }
}

//! The bookkeeping alone: containers that run several inputs.

use std::os::unix::net::UnixStream;

use super::*;
use crate::call::Outcome;
use crate::ids::ConnectionId;
use crate::runner::Module;
use crate::runner::ServiceKind;
use crate::starter::ContainerEnd;

struct Nobody;

impl Caller for Nobody {
    fn item(&self, _: Payload) -> Result<(), lamina_wire::WireError> {
        Ok(())
    }

    fn end(&self, _: Outcome) {}
}

struct Process;

impl ContainerProcess for Process {
    fn kill(&self) {}

    fn wait(&self, _: Duration) -> Option<ContainerEnd> {
        None
    }
}

fn id(number: u64) -> CallId {
    CallId::from_number(number)
}

fn input(call: u64) -> Input {
    let part_of = ConnectionId::new().function_call(call);
    Input { call: id(call), part_of, payload: Arc::default(), caller: Arc::new(Nobody), failed: 0 }
}

fn options(capacity: usize, maximum: usize) -> PoolOptions {
    let module = Module::Module { name: "m".into(), qualname: None };
    let kind = ServiceKind::Class { name: "C".into(), methods: vec!["run".into()] };
    let options = PoolOptions::new(kind, module, Duration::from_mins(1));
    PoolOptions { capacity, maximum, ..options }
}

/// Starts the container that is reserved; gives the calls that it takes.
fn start(state: &mut State) -> (SlotId, Vec<u64>) {
    let slot = state.reserve().expect("a container is wanted");
    let process: Arc<dyn ContainerProcess> = Arc::new(Process);
    let link = Arc::new(Link::new(UnixStream::pair().unwrap().0).unwrap());
    assert!(state.connect(slot, &link, &process));
    let given = state.ready(slot).unwrap();
    (slot, given.iter().map(|dispatch| dispatch.call.number()).collect())
}

fn waiting(state: &State) -> Vec<u64> {
    state.waiting.iter().map(|input| input.call.number()).collect()
}

#[test]
fn a_container_takes_as_many_inputs_as_it_has_room_for() {
    let mut state = State::new(&options(2, 2));
    for call in 1..=5 {
        assert!(state.place(input(call)).is_none());
    }
    let (first, given) = start(&mut state);
    assert_eq!(given, [1, 2]);
    let (second, given) = start(&mut state);
    assert_eq!((given, waiting(&state)), (vec![3, 4], vec![5]));
    assert!(state.reserve().is_none(), "there are as many as there may be");
    let (disposition, next) = state.finish(first, id(2), false).unwrap();
    assert!(matches!(disposition, Some(Disposition::Answer(_))));
    assert_eq!(next.map(|dispatch| dispatch.call), Some(id(5)));
    assert!(state.finish(first, id(2), false).is_err(), "it does not run that any more");
    assert!(state.finish(second, id(1), false).is_err(), "another one runs that");
    state.finish(second, id(3), true).unwrap();
    assert_eq!(state.place(input(6)).map(|dispatch| dispatch.slot), Some(second), "beside the other one");
    assert!(state.place(input(7)).is_none());
}

#[test]
fn no_container_is_started_for_inputs_that_starting_ones_will_take() {
    let mut state = State::new(&options(2, 9));
    (1..=3).for_each(|call| assert!(state.place(input(call)).is_none()));
    assert!(state.reserve().is_some());
    assert!(state.reserve().is_some());
    assert!(state.reserve().is_none());
}

#[test]
fn an_input_that_ends_its_container_leaves_its_neighbours_alone() {
    for retries in [0, 2] {
        let options = PoolOptions { retries: Retries { maximum: retries, ..Retries::default() }, ..options(3, 1) };
        let mut state = State::new(&options);
        (1..=4).for_each(|call| assert!(state.place(input(call)).is_none()));
        let (slot, given) = start(&mut state);
        assert_eq!(given, [1, 2, 3]);
        let cancelled = state.cancel(id(2)).unwrap();
        assert!(cancelled.process.is_some(), "its container is killed");
        assert!(matches!(state.finish(slot, id(2), false), Ok((None, None))), "its result crossed that");
        assert!(matches!(state.finish(slot, id(1), false), Ok((Some(_), None))), "a neighbour's counts");
        let removed = state.remove(slot);
        assert_eq!(removed.dispositions.len(), 0);
        assert_eq!(waiting(&state), [3, 4], "it runs again, before those that came later");
        assert_eq!(start(&mut state).1, [3, 4]);
    }
}

#[test]
fn a_container_that_dies_takes_all_its_inputs_along() {
    let mut state = State::new(&options(2, 1));
    (1..=2).for_each(|call| assert!(state.place(input(call)).is_none()));
    let (slot, _) = start(&mut state);
    assert_eq!(state.remove(slot).dispositions.len(), 2);
    assert!(waiting(&state).is_empty());
}

#[test]
fn only_the_input_whose_time_is_up_fails() {
    let options = PoolOptions { timeout: Duration::from_millis(50), ..options(2, 1) };
    let mut state = State::new(&options);
    assert!(state.place(input(1)).is_none());
    let (slot, _) = start(&mut state);
    std::thread::sleep(Duration::from_millis(60));
    assert!(state.place(input(2)).is_some());
    assert!(matches!(state.due(slot, &options), Deadline::Kill));
    let removed = state.remove(slot);
    assert!(matches!(removed.end, Some(EndReason::TimedOut)) && removed.dispositions.len() == 1);
    assert_eq!(waiting(&state), [2]);
}

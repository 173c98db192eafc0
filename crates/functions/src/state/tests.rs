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
    Input {
        call: id(call),
        part_of,
        method: None,
        payload: Arc::default(),
        caller: Arc::new(Nobody),
        failed: 0,
        queued: Instant::now(),
    }
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
    let link = Arc::new(Link::new("ta-1", UnixStream::pair().unwrap().0).unwrap());
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
        assert!(state.place(input(call)).is_empty());
    }
    let (first, given) = start(&mut state);
    assert_eq!(given, [1, 2]);
    let (second, given) = start(&mut state);
    assert_eq!((given, waiting(&state)), (vec![3, 4], vec![5]));
    assert!(state.reserve().is_none(), "there are as many as there may be");
    let Finished { disposition, next, .. } = state.finish(first, id(2), false).unwrap();
    assert!(matches!(disposition, Some(Disposition::Answer(_))));
    assert_eq!(next.iter().map(|dispatch| dispatch.call).collect::<Vec<_>>(), [id(5)]);
    assert!(state.finish(first, id(2), false).is_err(), "it does not run that any more");
    assert!(state.finish(second, id(1), false).is_err(), "another one runs that");
    state.finish(second, id(3), true).unwrap();
    assert_eq!(state.place(input(6))[0].slot, second, "beside the other one");
    assert!(state.place(input(7)).is_empty());
}

#[test]
fn no_container_is_started_for_inputs_that_starting_ones_will_take() {
    let mut state = State::new(&options(2, 9));
    (1..=3).for_each(|call| assert!(state.place(input(call)).is_empty()));
    assert!(state.reserve().is_some());
    assert!(state.reserve().is_some());
    assert!(state.reserve().is_none());
}

#[test]
fn an_input_that_ends_its_container_leaves_its_neighbours_alone() {
    for retries in [0, 2] {
        let options = PoolOptions { retries: Retries { maximum: retries, ..Retries::default() }, ..options(3, 1) };
        let mut state = State::new(&options);
        (1..=4).for_each(|call| assert!(state.place(input(call)).is_empty()));
        let (slot, given) = start(&mut state);
        assert_eq!(given, [1, 2, 3]);
        let cancelled = state.cancel(id(2), false).unwrap();
        assert!(cancelled.process.is_some() && cancelled.link.is_some(), "its container is told");
        let Finished { disposition, next, .. } = state.finish(slot, id(1), false).unwrap();
        assert!(disposition.is_some(), "a neighbour's result counts");
        assert_eq!(next.len(), 1, "there is room for one more");
        let EndReason::Cancelled = state.slots[&slot].end.clone().unwrap_or(EndReason::Cancelled) else { panic!() };
        let removed = state.remove(slot);
        assert_eq!(removed.dispositions.len(), 0);
        assert_eq!(waiting(&state), [3, 4], "they run again, in their order");
        assert_eq!(start(&mut state).1, [3, 4]);
    }
}

#[test]
fn a_container_that_dies_takes_all_its_inputs_along() {
    let mut state = State::new(&options(2, 1));
    (1..=2).for_each(|call| assert!(state.place(input(call)).is_empty()));
    let (slot, _) = start(&mut state);
    assert_eq!(state.remove(slot).dispositions.len(), 2);
    assert!(waiting(&state).is_empty());
}

#[test]
fn only_the_input_whose_time_is_up_fails() {
    let options = PoolOptions { timeout: Duration::from_millis(50), ..options(2, 1) };
    let mut state = State::new(&options);
    assert!(state.place(input(1)).is_empty());
    let (slot, _) = start(&mut state);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(state.place(input(2)).len(), 1);
    let Deadline::End(late) = state.due(slot, &options) else { panic!("one is late") };
    assert!(matches!(&late[..], [(call, Disposition::Answer(_))] if *call == id(1)));
    assert!(matches!(state.due(slot, &options), Deadline::Later(_)), "its neighbour goes on");
    assert!(state.finish(slot, id(2), false).unwrap().disposition.is_some());
    assert!(state.finish(slot, id(1), true).unwrap().disposition.is_none());
}

#[test]
fn a_cancelled_input_keeps_its_place_until_it_has_ended() {
    let mut state = State::new(&options(1, 1));
    (1..=2).for_each(|call| assert!(state.place(input(call)).is_empty()));
    let (slot, _) = start(&mut state);
    assert!(state.view("f").is_full);
    assert!(state.cancel(id(1), false).is_some() && state.cancel(id(1), false).is_none());
    assert!(!state.view("f").is_full, "who waits is not stuck: it ends by itself");
    assert!(state.place(input(3)).is_empty());
    let Finished { disposition, next, .. } = state.finish(slot, id(1), true).unwrap();
    assert!(disposition.is_none(), "nobody waits for it");
    assert_eq!(next[0].call, id(2));
    assert!(state.finish(slot, id(1), true).is_err());
}

#[test]
fn containers_that_run_inputs_may_end_them_when_a_pool_stops() {
    let mut state = State::new(&options(1, 1));
    assert!(state.place(input(1)).is_empty());
    let (slot, _) = start(&mut state);
    let stopped = state.stop();
    assert_eq!((stopped.leave.len(), stopped.interrupt.len(), stopped.kill.len()), (1, 1, 0));
    let cancelled = state.cancel(id(1), false).unwrap();
    assert!(cancelled.link.is_some(), "it is not killed: it may have something to do at its end");
    assert!(state.finish(slot, id(1), true).unwrap().next.is_empty());
}

#[test]
fn a_container_that_is_to_end_with_a_call_leaves_its_neighbours_to_others() {
    let mut state = State::new(&options(2, 1));
    (1..=2).for_each(|call| assert!(state.place(input(call)).is_empty()));
    let (slot, _) = start(&mut state);
    let cancelled = state.cancel(id(2), true).unwrap();
    assert!(cancelled.link.is_none() && cancelled.process.is_some(), "it is killed");
    assert!(state.remove(slot).dispositions.is_empty());
    assert_eq!(start(&mut state).1, [1]);
}

#[test]
fn inputs_of_a_container_that_the_user_stops_run_in_another() {
    let mut state = State::new(&options(2, 2));
    (1..=3).for_each(|call| assert!(state.place(input(call)).is_empty()));
    let (first, given) = start(&mut state);
    assert_eq!(given, [1, 2]);
    state.item(first, id(2)).unwrap();
    let (second, given) = start(&mut state);
    assert_eq!(given, [3]);
    let Withdrawn { leave, process, lost, next } = state.withdraw(first, false);
    assert!(leave.is_some() && process.is_some(), "it ends its inputs, and leaves");
    assert_eq!(lost.len(), 1, "one that has yielded cannot run again");
    assert_eq!((next.len(), next[0].call, next[0].slot), (1, id(1), second));
    // What the stopped one still says about them is for nobody.
    assert!(state.finish(first, id(1), true).unwrap().disposition.is_none());
    assert!(state.item(first, id(2)).unwrap().is_none());
    assert!(state.withdraw(first, false).leave.is_none(), "it is not told twice");
    assert!(state.remove(first).dispositions.is_empty());
}

#[test]
fn a_pool_that_is_evacuated_gives_up_what_can_run_elsewhere() {
    let mut state = State::new(&options(2, 1));
    (1..=3).for_each(|call| assert!(state.place(input(call)).is_empty()));
    let (slot, _) = start(&mut state);
    state.item(slot, id(2)).unwrap();
    let (inputs, Stopped { leave, interrupt, kill, .. }) = state.evacuate();
    let calls: Vec<u64> = inputs.iter().map(|input| input.call.number()).collect();
    assert_eq!(calls, [1, 3]);
    assert_eq!((leave.len(), interrupt.len(), kill.len()), (1, 1, 0));
    assert!(state.is_stopping() && state.reserve().is_none());
    assert!(state.finish(slot, id(1), false).unwrap().disposition.is_none(), "its result is for nobody");
    assert_eq!(state.remove(slot).dispositions.len(), 1, "what has yielded ends with the container");
}

#[test]
fn a_container_that_is_stopped_gracefully_leaves_after_its_inputs() {
    let mut state = State::new(&options(2, 2));
    (1..=2).for_each(|call| assert!(state.place(input(call)).is_empty()));
    let (slot, _) = start(&mut state);
    assert!(state.withdraw(slot, true).leave.is_none());
    assert!(state.finish(slot, id(1), false).unwrap().leave.is_none());
    assert!(state.place(input(3)).is_empty(), "it has room, but takes no more");
    assert_eq!(start(&mut state).1, [3]);
    assert!(state.finish(slot, id(2), false).unwrap().leave.is_some());
    let mut state = State::new(&options(1, 1));
    assert!(state.place(input(1)).is_empty());
    let (slot, _) = start(&mut state);
    state.finish(slot, id(1), false).unwrap();
    assert!(state.withdraw(slot, true).leave.is_some(), "one that has nothing to do goes at once");
}

#[test]
fn there_are_the_least_and_the_spare_containers() {
    let mut state = State::new(&PoolOptions { minimum: 2, buffer: 1, ..options(1, 4) });
    let started: Vec<SlotId> = (0..2).map(|_| start(&mut state).0).collect();
    assert!(state.reserve().is_none() && !state.may_shrink(), "nothing is spare without inputs");
    assert!(!state.place(input(1)).is_empty() && !state.wants_spare());
    assert!(!state.place(input(2)).is_empty() && state.wants_spare());
    let (third, _) = start(&mut state);
    assert_eq!(state.stats(), Stats { backlog: 0, num_total_runners: 3, num_running_inputs: 2, input_headroom: 1 });
    state.scale(Scaling { minimum: 4, ..state.scaling() });
    assert!(state.reserve().is_some() && state.reserve().is_none(), "four are the most");
    state.scale(Scaling { minimum: 0, buffer: 0, ..state.scaling() });
    assert!(state.may_shrink());
    for (slot, call) in started.iter().zip([2, 1]) {
        assert!(state.finish(*slot, id(call), false).is_ok());
    }
    assert!(state.slots.contains_key(&third));
}

#[test]
fn a_start_that_failed_is_tried_again_for_inputs_only() {
    let mut state = State::new(&PoolOptions { minimum: 1, ..options(1, 2) });
    let slot = state.reserve().unwrap();
    state.abandon(slot);
    state.remove(slot);
    assert!(state.reserve().is_none());
    assert!(state.place(input(1)).is_empty() && state.reserve().is_some());
}

#[test]
fn more_containers_are_started_for_more_inputs_than_are_aimed_at() {
    let mut state = State::new(&PoolOptions { target: Some(1), ..options(3, 2) });
    assert!(state.place(input(1)).is_empty());
    let (first, _) = start(&mut state);
    assert_eq!(state.place(input(2))[0].slot, first, "it has room");
    assert!(state.wants_spare());
    let (second, _) = start(&mut state);
    assert_eq!(state.place(input(3))[0].slot, second, "it has less than it aims at");
    assert!(!state.wants_spare(), "there are as many as there may be");
}

#[test]
fn a_container_of_single_use_leaves_after_its_input() {
    let mut state = State::new(&PoolOptions { single_use: true, ..options(1, 2) });
    (1..=2).for_each(|call| assert!(state.place(input(call)).is_empty()));
    let (slot, _) = start(&mut state);
    let finished = state.finish(slot, id(1), false).unwrap();
    assert!(finished.leave.is_some() && finished.next.is_empty());
    assert!(state.reserve().is_some());
}

#[test]
fn a_batch_waits_until_it_is_full_or_old_enough() {
    let batching = Some(Batching { size: 2, wait: Duration::from_millis(30) });
    let mut state = State::new(&PoolOptions { batching, ..options(2, 1) });
    (1..=3).for_each(|call| assert!(state.place(input(call)).is_empty()));
    let (slot, given) = start(&mut state);
    assert_eq!(given, [1, 2]);
    assert!(state.next_due().is_none(), "it has something to do");
    assert!(state.finish(slot, id(1), false).unwrap().next.is_empty());
    assert!(state.place(input(4)).is_empty(), "one of its batch still runs");
    let next = state.finish(slot, id(2), false).unwrap().next;
    assert_eq!(next.iter().map(|dispatch| dispatch.batch).collect::<Vec<_>>(), [Some(2), None]);
    (3..=4).for_each(|call| assert!(state.finish(slot, id(call), false).is_ok()));
    assert!(state.place(input(5)).is_empty() && state.next_due().is_some());
    std::thread::sleep(Duration::from_millis(35));
    assert_eq!(state.place_due()[0].batch, Some(1));
}

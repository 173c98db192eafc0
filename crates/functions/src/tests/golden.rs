//! The conversation with a runner that the tests of the package hold as well.

use serde_json::Value;

use crate::*;

const CONVERSATION: &str = include_str!("../../../../tests/data/protocol/runner.json");

/// What the engine would send in the place of this message.
fn ours(message: &Value) -> Vec<u8> {
    let text = |key: &str| message[key].as_str().unwrap().to_owned();
    let number = |key: &str| message[key].as_u64().unwrap();
    match message["type"].as_str().unwrap() {
        "start" => {
            let module: Module = serde_json::from_value(message["module"].clone()).unwrap();
            let name = message["service"]["name"].as_str().unwrap().to_owned();
            let (service, capacity) = (ServiceKind::Function { name }, usize::try_from(number("capacity")).unwrap());
            ToRunner::Start {
                module: &module,
                service: &service,
                parameters: &[],
                capacity,
                batches: false,
                terminal: false,
                keeps: false,
                volumes: &[],
                mark: message["mark"].as_str(),
            }
            .encode()
        }
        "call" => {
            let function_call_id = Calls::default().function_call(1, None);
            let (call, input_id) = (number("call"), CallId::new());
            ToRunner::Call { call, function: &text("function"), input_id, function_call_id, batch: None }.encode()
        }
        "more" => ToRunner::More { call: number("call"), count: number("count") }.encode(),
        "stop" => ToRunner::Stop.encode(),
        "item" => CallAnswer::Item { call: number("call") }.encode(),
        "call.accepted" => {
            CallAnswer::Accepted { call: number("call"), id: Calls::default().function_call(1, None).to_string() }
                .encode()
        }
        "result" => {
            let error = || serde_json::from_value(message["error"].clone()).unwrap();
            let status = match text("status").as_str() {
                "ok" => CallStatus::Ok,
                "exception" => CallStatus::Exception,
                _ => CallStatus::Error { error: error(), message: text("message"), hint: None },
            };
            CallAnswer::Result { call: number("call"), status }.encode()
        }
        other => panic!("the engine sends no `{other}`"),
    }
}

#[test]
fn the_conversation_is_the_one_that_the_package_knows() {
    let frames: Vec<Value> = serde_json::from_str(CONVERSATION).unwrap();
    for frame in &frames {
        let control = &frame["control"];
        if frame["from"] == "runner" {
            let understood = serde_json::from_value::<FromRunner>(control.clone());
            assert!(understood.is_ok(), "{control}: {understood:?}");
            continue;
        }
        let mut sent: Value = serde_json::from_slice(&ours(control)).unwrap();
        for (key, prefix) in [("id", "fc-"), ("function_call_id", "fc-"), ("input_id", "in-")] {
            if let Some(id) = sent.get_mut(key) {
                assert!(id.as_str().unwrap().starts_with(prefix), "{control}");
                *id = control[key].clone();
            }
        }
        assert_eq!(&sent, control);
    }
}

//! The conversations with the package that its own tests hold as well.

use lamina_functions::{CallAnswer, CallStatus, Calls};
use serde_json::Value;

use super::*;

const CONVERSATIONS: [&str; 2] = [
    include_str!("../../../../tests/data/protocol/package.json"),
    include_str!("../../../../tests/data/protocol/attached.json"),
];

/// What the engine would send in the place of this message.
fn ours(message: &Value) -> Vec<u8> {
    let text = |key: &str| message[key].as_str().unwrap();
    let (request, call) = (message["request"].as_u64().unwrap_or(0), message["call"].as_u64().unwrap_or(0));
    let map = |key: &str| serde_json::from_value::<BTreeMap<String, String>>(message[key].clone()).unwrap();
    match text("type") {
        "welcome" => Answer::Welcome { protocol: PROTOCOL, engine: text("engine") }.encode(),
        "app.started" => {
            let (images, functions) = (map("images"), map("functions"));
            Answer::Started { request, app_id: text("app_id"), images: &images, functions: &functions }.encode()
        }
        "app.stopped" => Answer::Stopped { request }.encode(),
        "app.attached" => {
            let functions = message["functions"].as_object().unwrap().iter();
            let functions = functions.map(|(name, function)| {
                (
                    name.as_str(),
                    AttachedFunction { id: function["id"].as_str().unwrap().to_owned(), generator: false, class: None },
                )
            });
            let functions = functions.collect();
            Answer::Attached { request, app_id: text("app_id"), functions, elsewhere: false }.encode()
        }
        "app.left" => Answer::Left { request }.encode(),
        "item" => CallAnswer::Item { call }.encode(),
        "call.accepted" => {
            CallAnswer::Accepted { call, id: Calls::default().function_call(call, None).to_string() }.encode()
        }
        "result" => {
            let hint = message.get("hint").and_then(Value::as_str).map(str::to_owned);
            let status = match text("status") {
                "ok" => CallStatus::Ok,
                "exception" => CallStatus::Exception,
                _ => CallStatus::Error {
                    error: serde_json::from_value(message["error"].clone()).unwrap(),
                    message: text("message").to_owned(),
                    hint,
                },
            };
            CallAnswer::Result { call, status }.encode()
        }
        other => panic!("the engine sends no `{other}`"),
    }
}

#[test]
fn the_conversations_are_those_that_the_package_knows() {
    for conversation in CONVERSATIONS {
        let frames: Vec<Value> = serde_json::from_str(conversation).unwrap();
        for frame in &frames {
            let control = &frame["control"];
            if frame["from"] == "package" {
                let understood = Request::decode(control.to_string().as_bytes());
                assert!(understood.is_ok(), "{control}: {understood:?}");
                continue;
            }
            let mut sent: Value = serde_json::from_slice(&ours(control)).unwrap();
            if control["type"] == "call.accepted" {
                sent["id"] = control["id"].clone();
            }
            assert_eq!(&sent, control);
        }
    }
}

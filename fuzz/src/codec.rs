//! The codec never panics, and parses what it encodes to the same message.

use actix_sandbox::protocol::{
    ClientMessage, ExecRequest, NamedMessage, Program, SandboxConfig, ServerMessage, Version,
};
use bytes::Bytes;

/// Parses a frame as the client and the server do, under each protocol version.
pub fn codec(data: &[u8]) {
    for version in [Version::V1, Version::V2] {
        from_server(data, version);
        from_client(data, version);
    }
    configuration(data);
}

fn configuration(data: &[u8]) {
    let Ok(config) = SandboxConfig::parse(data) else {
        return;
    };
    let _ = (config.check(), config.needs_lifetime());
    let text = config.encode();
    assert_eq!(SandboxConfig::parse(text.as_bytes()), Ok(config));
}

fn from_server(data: &[u8], version: Version) {
    let frame = Bytes::copy_from_slice(data);
    let Ok(message) = ServerMessage::parse_as(&frame, version) else {
        return;
    };
    if matches!(message, ServerMessage::Unknown(_)) {
        return;
    }
    let text = message.encode();
    let again = ServerMessage::parse_as(&Bytes::from(text.clone()), version);
    // Unknown keys are not encoded again, so compare the second encoding.
    let again = again.unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(again.encode(), text);
    match (&message, &again) {
        (ServerMessage::Output(one), ServerMessage::Output(two)) => {
            assert_eq!(
                (one.stream, &one.data, &one.place),
                (two.stream, &two.data, &two.place)
            );
        }
        (ServerMessage::Status(one), ServerMessage::Status(two)) => {
            assert_eq!((&one.status, &one.message), (&two.status, &two.message));
            assert_eq!(one.exec, two.exec);
        }
        (ServerMessage::StdinAck { .. }, _) => assert_eq!(message, again),
        (one, two) => assert_eq!(std::mem::discriminant(one), std::mem::discriminant(two)),
    }
}

fn from_client(data: &[u8], version: Version) {
    let Ok(message) = ClientMessage::parse_as(data, version) else {
        return;
    };
    let nothing = |request: &ExecRequest<'_>| request.language.is_none() && request.code.is_none();
    match &message {
        ClientMessage::Unknown
        | ClientMessage::Named(
            _,
            NamedMessage::Malformed(_) | NamedMessage::MalformedStdin(_) | NamedMessage::Unknown,
        ) => return,
        // The code was not text, so it is not encoded again.
        ClientMessage::Exec(request) if nothing(request) => return,
        ClientMessage::Named(_, NamedMessage::Exec(Program::Code(request), _))
            if nothing(request) =>
        {
            return;
        }
        _ => {}
    }
    let text = message.encode();
    assert_eq!(
        ClientMessage::parse_as(text.as_bytes(), version),
        Ok(message)
    );
}

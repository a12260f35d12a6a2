//! The client's response head, as the visitor gets it.

use crate::http::{Added, Asked, ResponseBody, ResponsePlan, trailers};
use crate::wire::open::{ResponseHead, parse_trailers};
use crate::wire::parts::HeadParts;

/// What a head says of the response.
pub(super) enum Planned {
    Interim,
    Switch,
    Final {
        status: u16,
        body: ResponseBody,
        keep_alive: bool,
    },
}

/// Reads the client's JSON and writes the head for the visitor, who takes `trailers`.
pub(super) fn plan_head(
    (payload, parts): (&[u8], &HeadParts),
    asked: Asked,
    (upload_done, trailers): (bool, bool),
    added: Added,
    text: &mut Vec<u8>,
) -> Result<Planned, &'static str> {
    let head = ResponseHead::parse(payload).map_err(|_| "a malformed response head")?;
    let fields = parts.before(head.headers);
    let fields = fields.map_err(|_| "malformed parts of a response head")?;
    let fields = fields.iter().map(|field| (&*field.name, &*field.value));
    let mut plan = ResponsePlan::new(head.status, fields, asked).map_err(|refused| refused.0)?;
    // A response before the end of the request's body: the rest of it may never come.
    plan.keep_alive &= upload_done;
    if trailers {
        plan.pass_trailers();
    }
    if plan.is_interim() == head.is_final {
        return Err("1xx heads are not final, and all others are");
    }
    plan.added = added;
    plan.write(text);
    Ok(if plan.is_interim() {
        Planned::Interim
    } else if plan.switches() {
        Planned::Switch
    } else {
        Planned::Final {
            status: head.status,
            body: plan.body,
            keep_alive: plan.keep_alive,
        }
    })
}

/// Reads the client's JSON and writes the last chunk and the trailers for the visitor, but for
/// their end. False where none may pass.
pub(super) fn write_trailers(payload: &[u8], text: &mut Vec<u8>) -> Result<bool, &'static str> {
    let fields = parse_trailers(payload).map_err(|_| "malformed trailers")?;
    let fields = fields.iter().map(|field| (&*field.name, &*field.value));
    trailers::write(text, fields).map_err(|refused| refused.0)
}

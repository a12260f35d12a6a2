//! What of a binding can be checked without a kit.

use crate::client::config::read_text;
use crate::client::error::Error;
use crate::client::options::{BindOptions, HostHeader, To};
use crate::http::OwnField;
use crate::limits::{CLIENT_CA_BYTES, OWN_FIELDS_BYTES};
use crate::machine::Trust;
use crate::wire::control::BindingKind;
use crate::wire::service::Service;

/// What datagrams have nothing to do with is refused.
pub(super) fn check_datagrams(options: &BindOptions) -> Result<(), Error> {
    if options.service.kind() != BindingKind::Udp {
        return Ok(());
    }
    let wrong = match &options.to {
        Some(To::Handler(_)) => "A handler answers requests; this carries datagrams.",
        Some(To::Target(target)) if !target.prefix().is_empty() || target.scheme() != "http" => {
            "A target of datagrams is a host and a port, without a scheme and a path."
        }
        Some(To::Target(target)) if target.port().is_none() => {
            "Datagrams go to a port, not to a Unix socket."
        }
        _ if options.proxy_protocol.is_some() => {
            "The PROXY protocol is for connections; datagrams have none."
        }
        _ if !options.headers.is_empty() || options.host_header != HostHeader::Rewrite => {
            "Datagrams have no header fields."
        }
        _ => return Ok(()),
    };
    Err(Error::Options(wrong.into()))
}

/// Whose certificates count for a local server that speaks TLS.
pub(super) fn trust(options: &BindOptions) -> Result<Trust, Error> {
    let wrong = |text: &str| Err(Error::Options(text.into()));
    let is_secure = match &options.to {
        Some(To::Target(target)) => target.server_name().is_some(),
        _ => false,
    };
    match (&options.upstream_ca, options.upstream_insecure) {
        (None, false) => Ok(Trust::System),
        _ if !is_secure => wrong("Only a target with https has a certificate to trust."),
        (Some(_), true) => wrong("Certificates are either checked by a CA file or not at all."),
        (None, true) => Ok(Trust::Anyone),
        (Some(file), false) => {
            let pem = read_text(file, CLIENT_CA_BYTES, "CA")?;
            if !pem.contains("-----BEGIN CERTIFICATE-----") {
                return wrong(&format!("{} holds no certificate.", file.display()));
            }
            Ok(Trust::Also(pem.as_bytes().into()))
        }
    }
}

/// Fields of every request to a local HTTP server.
pub(super) fn own_fields(options: &BindOptions) -> Result<Vec<OwnField>, Error> {
    let wrong = Error::Options;
    let is_http =
        options.service == Service::HttpExpose && !matches!(options.to, Some(To::Handler(_)));
    if !options.headers.is_empty() && !is_http {
        return Err(wrong(
            "Only requests to a local HTTP server have fields.".into(),
        ));
    }
    let mut fields: Vec<OwnField> = Vec::new();
    let mut bytes = 0;
    for (name, value) in &options.headers {
        let field = OwnField::new(name, value).map_err(|why| wrong(format!("header: {why}.")))?;
        if fields.iter().any(|other| other.is_like(&field)) {
            return Err(wrong(format!("header: {name} comes twice.")));
        }
        bytes += name.len() + value.len();
        fields.push(field);
    }
    if bytes > OWN_FIELDS_BYTES {
        let most = OWN_FIELDS_BYTES;
        return Err(wrong(format!(
            "All headers together have at most {most} bytes."
        )));
    }
    Ok(fields)
}

//! Status: conditions, handlers and features, from memory.

use std::collections::BTreeMap;

use berth_lifecycle::HandlerReport;
use berth_proto::cri::v1 as cri;
use serde_json::json;

use crate::Cri;

pub(crate) async fn status(cri: &Cri, request: &cri::StatusRequest) -> cri::StatusResponse {
    let conditions = (cri.parts.conditions)()
        .await
        .into_iter()
        .map(|condition| cri::RuntimeCondition {
            r#type: condition.name.to_owned(),
            status: condition.holds,
            reason: condition.reason,
            message: condition.message,
        })
        .collect();
    let mut handlers = cri.parts.node.handlers().report();
    for handler in &mut handlers {
        handler.user_namespaces &= cri.parts.user_namespaces;
    }
    let info = match request.verbose {
        true => BTreeMap::from([
            ("config".to_owned(), cri.parts.config.to_string()),
            ("handlers".to_owned(), json!(handlers).to_string()),
        ]),
        false => BTreeMap::new(),
    };
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus { conditions }),
        info,
        runtime_handlers: usable(&handlers),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: cri.parts.user_namespaces,
        }),
    }
}

/// Those that a pod can be begun with. The default one stands first, under the name that a pod
/// without a RuntimeClass uses. A broken one is not listed: what it can do is not known.
fn usable(handlers: &[HandlerReport]) -> Vec<cri::RuntimeHandler> {
    let usable = || handlers.iter().filter(|handler| handler.broken.is_none());
    let default = usable().filter(|handler| handler.default).map(|handler| one("", handler));
    default.chain(usable().map(|handler| one(&handler.name, handler))).collect()
}

fn one(name: &str, handler: &HandlerReport) -> cri::RuntimeHandler {
    cri::RuntimeHandler {
        name: name.to_owned(),
        features: Some(cri::RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.recursive_read_only_mounts,
            user_namespaces: handler.user_namespaces,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_handler_comes_first_without_a_name_and_a_broken_one_not_at_all() {
        let handler = |name: &str, default, broken: Option<&str>| HandlerReport {
            name: name.to_owned(),
            default,
            broken: broken.map(str::to_owned),
            ..HandlerReport::default()
        };
        let names = |handlers: &[HandlerReport]| {
            usable(handlers).into_iter().map(|handler| handler.name).collect::<Vec<_>>()
        };
        let [well, bad] = [handler("b", true, None), handler("a", false, Some("gone"))];
        assert_eq!(names(&[bad.clone(), well]), ["", "b"]);
        assert_eq!(names(&[bad, handler("b", true, Some("gone"))]), [""; 0]);
    }
}

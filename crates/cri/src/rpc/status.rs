//! Status: conditions, handlers and features, from memory.

use std::collections::BTreeMap;

use berth_proto::cri::v1 as cri;

use crate::{Cri, Handler};

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
    let info = match request.verbose {
        true => BTreeMap::from([("config".to_owned(), cri.parts.config.to_string())]),
        false => BTreeMap::new(),
    };
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus { conditions }),
        info,
        runtime_handlers: cri.parts.handlers.iter().map(handler).collect(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        }),
    }
}

fn handler(handler: &Handler) -> cri::RuntimeHandler {
    cri::RuntimeHandler {
        name: handler.name.clone(),
        features: Some(cri::RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.recursive_read_only,
            user_namespaces: handler.user_namespaces,
        }),
    }
}

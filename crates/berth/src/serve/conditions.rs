//! What Status says of the handlers.

use berth_cri::Condition;
use berth_lifecycle::Offered;

/// `RuntimeReady`, and `HandlersReady`: the kubelet goes by the first alone, and with it stops to
/// run any pod. So a broken handler, were it the default one, shows in the second.
pub(super) fn of_handlers(offered: &Offered) -> [Condition; 2] {
    let broken: Vec<_> = offered
        .handlers
        .iter()
        .filter_map(|(name, offer)| Some(format!("{name}: {}", offer.as_ref().err()?)))
        .collect();
    let condition = |name, holds: bool| Condition {
        name,
        holds,
        reason: if holds { "" } else { "HandlerBroken" }.to_owned(),
        message: if holds { String::new() } else { broken.join("; ") },
    };
    let works = broken.len() < offered.handlers.len();
    [condition("RuntimeReady", works), condition("HandlersReady", broken.is_empty())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_handler_is_told_and_only_if_none_works_the_runtime_is_not_ready() {
        let handler = serde_json::json!({
            "shim": "/s", "kind": "berth", "runtime": null, "runtime_root": "/r", "options": null,
            "sandbox": "auto", "privileged": true, "cni_conf_dir": null, "base_spec": null,
            "facts": berth_oci::facts::HandlerFacts::default(),
        });
        let well = || Ok(serde_json::from_value(handler.clone()).unwrap());
        let broken = || Err("no shim".to_owned());
        let holds = |offers: [berth_lifecycle::Offer; 2]| {
            let handlers = ["a", "b"].map(str::to_owned).into_iter().zip(offers).collect();
            of_handlers(&Offered { default: "a".to_owned(), handlers })
        };
        assert_eq!(holds([well(), well()]).map(|condition| condition.holds), [true, true]);
        let [runtime, handlers] = holds([broken(), well()]);
        assert!(runtime.holds && !handlers.holds);
        assert_eq!(handlers.message, "a: no shim");
        let [runtime, handlers] = holds([broken(), broken()]);
        assert!(!runtime.holds && !handlers.holds);
        assert_eq!(
            (runtime.reason.as_str(), runtime.message.as_str()),
            ("HandlerBroken", "a: no shim; b: no shim")
        );
    }
}

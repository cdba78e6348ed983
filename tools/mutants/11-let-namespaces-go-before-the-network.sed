# file: crates/pod/src/holding.rs
# build: node
# test: -p berth-testkit --test e2e pods::a_pod_is_run
s/Self::Network => &\[Self::Namespaces\],/Self::Network => \&[],/

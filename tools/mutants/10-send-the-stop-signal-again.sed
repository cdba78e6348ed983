# file: crates/pod/src/machine/advance.rs
# build: node
# test: -p berth-testkit --test e2e stop::the_shorter_grace
/stop\.signalled = true;/d

//! Restarting some kernels back: where that reads what has been overwritten.

use reef_sim::profile::Profile;
use reef_sim::restart::{Access, Values, accesses, buffers, is_safe, undisturbed, unsafe_share};

fn access(reads: &[u32], writes: u32) -> Access {
    Access { reads: reads.to_vec(), writes }
}

/// A, B and back to A: the second kernel's input is gone once the third has begun.
fn ping_pong() -> Vec<Access> {
    vec![access(&[9], 0), access(&[0], 1), access(&[1], 0), access(&[0], 1)]
}

#[test]
fn a_window_is_unsafe_where_a_reader_in_it_has_lost_its_input() {
    let kernels = ping_pong();
    assert!(is_safe(&kernels, 0, 3), "from the beginning all is written again");
    assert!(is_safe(&kernels, 1, 1));
    assert!(!is_safe(&kernels, 1, 2), "kernel 1 would read what kernel 2 has written");
    assert!(is_safe(&kernels, 2, 2));
    assert!(!is_safe(&kernels, 2, 3));
    assert_eq!(unsafe_share(&kernels, 0), 0.0);
    assert_eq!(unsafe_share(&kernels, 1), 0.5);
    let in_place = vec![access(&[9], 0), access(&[0], 0)];
    assert!(!is_safe(&in_place, 1, 1), "a kernel that overwrites what it reads cannot run twice");
    assert!(is_safe(&in_place, 0, 1));
}

#[test]
fn unsafe_windows_are_those_that_change_the_output() {
    for profile in Profile::all() {
        let kernels = accesses(&profile).unwrap();
        let expected = undisturbed(&kernels);
        for back in 0..=4 {
            for last in 0..kernels.len() {
                let from = last.saturating_sub(back);
                let mut values = Values::new(&kernels);
                (0..last).for_each(|kernel| values.run(kernel));
                values.kill(last);
                (from..kernels.len()).for_each(|kernel| values.run(kernel));
                let same = values.output() == expected;
                let name = &profile.name;
                assert_eq!(same, is_safe(&kernels, from, last), "{name}: kernel {last}, {back} back");
            }
        }
    }
}

#[test]
fn results_that_are_kept_longer_need_more_buffers() {
    let kernels = ping_pong();
    assert_eq!([0, 1, 2, 9].map(|back| buffers(&kernels, back)), [2, 3, 4, 4]);
    for profile in Profile::all() {
        let kernels = accesses(&profile).unwrap();
        let needed = [0, 2, 4].map(|back| buffers(&kernels, back));
        assert!(needed[0] < needed[1] && needed[1] < needed[2], "{}: {needed:?}", profile.name);
    }
}

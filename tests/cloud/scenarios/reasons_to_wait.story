# Every device is wanted to take 1.1.0 at once; each has a reason of its own to wait, or none.
firmware 1.0.0
firmware 1.1.0
device anna app=1.0.0
device away app=1.0.0 offline
device busy app=1.0.0 phase=proving
device closed app=1.0.0 disabled
device closed-till-500 app=1.0.0 disabled until=500
device failed app=1.0.0 failed=1.1.0
device held app=1.0.0 hold=nurse/patient
device held-till-500 app=1.0.0 hold=nurse/patient until=500
device installed app=1.0.0 pending=1.1.0@next_start
device backing-off app=1.0.0 pending=1.1.0@backing_off
device other-pending app=1.0.0 pending=1.0.0@next_start
release everyone v1 1.1.0 immediate
plan 499
    anna app takes 1.1.0 by rel-everyone-v1
    away app offline: takes 1.1.0 when it is back
    backing-off app backing_off: 1.1.0 waits
    busy app under_way: is proving
    closed app disabled: its application disabled updates
    closed-till-500 app disabled: its application disabled updates
    failed app failed_before: 1.1.0: failed on this device before
    held app held: held by nurse: patient
    held-till-500 app held: held by nurse: patient
    installed app next_start: 1.1.0 waits
    other-pending app takes 1.1.0 by rel-everyone-v1
plan 500
    anna app takes 1.1.0 by rel-everyone-v1
    away app offline: takes 1.1.0 when it is back
    backing-off app backing_off: 1.1.0 waits
    busy app under_way: is proving
    closed app disabled: its application disabled updates
    closed-till-500 app takes 1.1.0 by rel-everyone-v1
    failed app failed_before: 1.1.0: failed on this device before
    held app held: held by nurse: patient
    held-till-500 app takes 1.1.0 by rel-everyone-v1
    installed app next_start: 1.1.0 waits
    other-pending app takes 1.1.0 by rel-everyone-v1

# Forced: disabled and held devices take it all the same; what failed there, and what is under way, does not change.
release everyone v2 1.1.0 immediate forced
plan 499
    anna app takes 1.1.0 by rel-everyone-v2
    away app offline: takes 1.1.0 when it is back
    backing-off app backing_off: 1.1.0 waits
    busy app under_way: is proving
    closed app takes 1.1.0 by rel-everyone-v2
    closed-till-500 app takes 1.1.0 by rel-everyone-v2
    failed app failed_before: 1.1.0: failed on this device before
    held app takes 1.1.0 by rel-everyone-v2
    held-till-500 app takes 1.1.0 by rel-everyone-v2
    installed app next_start: 1.1.0 waits
    other-pending app takes 1.1.0 by rel-everyone-v2

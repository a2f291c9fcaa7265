# Hardware, requirements, floors and ranges: two lines side by side, and a device that needs its base first.
firmware 1.0.0 component=os
firmware 2.0.0 component=os
firmware 1.0.0
firmware 1.1.0 hardware=pi3,pi4
firmware 2.0.0 hardware=pi4,pi5
firmware 2.1.0 requires=os:>=2.0.0
firmware 2.2.0 agent=0.9.0
firmware 2.2.1 same=2.0.0
device old app=1.0.0 os=1.0.0 model=pi3
device middle app=2.0.0 os=1.0.0
device new app=2.0.0 os=2.0.0 model=pi5
release everyone v1 1.1.0 range=1.x immediate
release everyone v2 2.1.0 range=2.x immediate
notice everyone
    v2 2.1.0
    v1 1.1.0
plan 0
    middle app requirement: 2.1.0: needs os >=2.0.0, has 1.0.0
    middle os nothing_released: nothing was released to it
    new app takes 2.1.0 by rel-everyone-v2
    new os nothing_released: nothing was released to it
    old app takes 1.1.0 by rel-everyone-v1
    old os nothing_released: nothing was released to it

# Whom would each of these reach?
forecast everyone v3 2.0.0 range=1.x
    middle app up_to_date: runs 2.0.0
    new app up_to_date: runs 2.0.0
    old app hardware: hardware model pi3 is not among the firmware's
    app 2.0.0 to everyone: reaches nobody (2 up_to_date, 1 hardware)
forecast everyone v3 2.2.0
    middle app requirement: 2.2.0: needs agent 0.9.0, has 0.1.0
    new app requirement: 2.2.0: needs agent 0.9.0, has 0.1.0
    old app requirement: 2.2.0: needs agent 0.9.0, has 0.1.0
    app 2.2.0 to everyone: reaches nobody (3 requirement)
forecast everyone v3 2.1.0 range=9.x
    middle app target_range: outside the target range: 2.0.0 build 3 against 9.x
    new app target_range: outside the target range: 2.0.0 build 3 against 9.x
    old app target_range: outside the target range: 1.0.0 build 1 against 9.x
    app 2.1.0 to everyone: reaches nobody, because no device runs a version in 9.x
forecast nobody v1 2.0.0
    middle app not_in_group: is not in group nobody
    new app not_in_group: is not in group nobody
    old app not_in_group: is not in group nobody
    app 2.0.0 to nobody: reaches nobody (3 not_in_group)
forecast everyone v3 2.2.1 range=2.x
    middle app up_to_date: runs the same image as 2.0.0
    new app up_to_date: runs the same image as 2.0.0
    old app target_range: outside the target range: 1.0.0 build 1 against 2.x
    app 2.2.1 to everyone: reaches nobody (2 up_to_date, 1 target_range)

# Release managers retire everything before 2.1.0 (seq 4).
floor app 4
plan 0
    middle app requirement: 2.1.0: needs os >=2.0.0, has 1.0.0
    middle os nothing_released: nothing was released to it
    new app takes 2.1.0 by rel-everyone-v2
    new os nothing_released: nothing was released to it
    old app floor: 1.1.0: seq 2, floor 4
    old os nothing_released: nothing was released to it

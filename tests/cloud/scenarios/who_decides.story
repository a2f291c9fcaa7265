# Pin before groups, groups in rank order before everyone, a single-device OTA only against earlier decisions.
firmware 1.0.0
firmware 1.1.0
firmware 1.2.0
firmware 1.3.0
release everyone v1 1.1.0
release pilot v1 1.2.0
device pinned app=1.0.0 pin=1.0.0 groups=pilot
device pinned-away app=1.1.0 pin=1.0.0
device pilot app=1.1.0 groups=pilot
device other app=1.1.0
device single app=1.1.0 ota=1.3.0@25
device single-before app=1.1.0 groups=pilot ota=1.3.0@15
plan 0
    other app up_to_date: runs 1.1.0
    pilot app next_session: takes 1.2.0 at its next session or check
    pinned app up_to_date: runs 1.0.0
    pinned-away app takes 1.0.0 by pin
    single app takes 1.3.0 by ota-1
    single-before app next_session: takes 1.2.0 at its next session or check

# A release to everyone does not reach those for whom pilot decides.
forecast everyone v2 1.3.0
    other takes it
    pilot app higher_rank: group pilot decides: v1, 1.2.0
    pinned app pinned: locked to 1.0.0
    pinned-away app pinned: locked to 1.0.0
    single takes it
    single-before app higher_rank: group pilot decides: v1, 1.2.0
    app 1.3.0 to everyone: reaches 2 of 6 devices
forecast pilot v2 1.3.0
    other app not_in_group: is not in group pilot
    pilot takes it
    pinned app pinned: locked to 1.0.0
    pinned-away app not_in_group: is not in group pilot
    single app not_in_group: is not in group pilot
    single-before takes it
    app 1.3.0 to pilot: reaches 2 of 6 devices

# A product whose updates are switched off moves nobody.
ota-off
forecast pilot v2 1.3.0
    other app not_in_group: is not in group pilot
    pilot app ota_off: updates are switched off for the product
    pinned app ota_off: updates are switched off for the product
    pinned-away app not_in_group: is not in group pilot
    single app not_in_group: is not in group pilot
    single-before app ota_off: updates are switched off for the product
    app 1.3.0 to pilot: reaches nobody (3 ota_off, 3 not_in_group)
plan 0
    other app ota_off: updates are switched off for the product
    pilot app ota_off: updates are switched off for the product
    pinned app ota_off: updates are switched off for the product
    pinned-away app ota_off: updates are switched off for the product
    single app ota_off: updates are switched off for the product
    single-before app ota_off: updates are switched off for the product

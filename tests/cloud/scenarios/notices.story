# A notice carries what may still decide for somebody, newest first.
firmware 1.0.0 hardware=pi3
firmware 1.1.0 hardware=pi3,pi4
firmware 1.2.0 hardware=pi4
firmware 2.0.0 hardware=pi3,pi4

# A newer release at 100 % without a range ends what is older ...
release everyone v1 1.0.0
release everyone v2 1.1.0
notice everyone
    v2 1.1.0
# ... but not for hardware that it does not admit.
release everyone v3 1.2.0
notice everyone
    v3 1.2.0
    v2 1.1.0
# At a percentage, or with a range, it ends nothing,
release everyone v4 2.0.0 10%
release everyone v5 2.0.0 range=1.1.0
notice everyone
    v5 2.0.0
    v4 2.0.0
    v3 1.2.0
    v2 1.1.0
# unless the range is the same, and whoever took the older one is in it.
release everyone v6 1.1.0 range=1.x
release everyone v7 2.0.0 range=1.x
notice everyone
    v7 2.0.0
    v5 2.0.0
    v4 2.0.0
    v3 1.2.0
    v2 1.1.0
# A range that its own firmware leaves keeps those who took it from falling to another channel.
release everyone v8 2.0.0 range=>=1.0.0_<1.1.0
release everyone v9 1.1.0 range=>=1.0.0_<1.1.0
notice everyone
    v9 1.1.0
    v8 2.0.0
    v7 2.0.0
    v5 2.0.0
    v4 2.0.0
    v3 1.2.0
    v2 1.1.0
# Back to 100 % without a range, for all hardware: one is enough.
release everyone v10 2.0.0
notice everyone
    v10 2.0.0

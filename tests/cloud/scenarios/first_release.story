# Half of a small fleet gets 1.1.0; the rest stays on what it has, and is told why.
firmware 1.0.0
firmware 1.1.0
device pi-1 app=1.0.0
device pi-2 app=1.0.0
device pi-3 app=1.0.0
device pi-4 app=1.1.0
device pi-5
release everyone v1 1.1.0 50% immediate
plan 0
    pi-1 app percentage: outside the percentage: bucket 54 is not below 50
    pi-2 app takes 1.1.0 by rel-everyone-v1
    pi-3 app takes 1.1.0 by rel-everyone-v1
    pi-4 app up_to_date: runs 1.1.0
    pi-5 app takes 1.1.0 by rel-everyone-v1

# The next one reaches everybody, whoever was outside the percentage too.
firmware 1.2.0
forecast everyone v2 1.2.0
    pi-1 takes it
    pi-2 takes it
    pi-3 takes it
    pi-4 takes it
    pi-5 takes it
    app 1.2.0 to everyone: reaches 5 of 5 devices
release everyone v2 1.2.0 immediate
plan 0
    pi-1 app takes 1.2.0 by rel-everyone-v2
    pi-2 app takes 1.2.0 by rel-everyone-v2
    pi-3 app takes 1.2.0 by rel-everyone-v2
    pi-4 app takes 1.2.0 by rel-everyone-v2
    pi-5 app takes 1.2.0 by rel-everyone-v2
notice everyone
    v2 1.2.0

"""Takes out each clause and each number of decision and queue, and sees who notices.

======================  ==============================================================
module                  what it does
======================  ==============================================================
``mutate``              texts of a module in which one clause or number is another
``modules``             the modules that are looked at, as they are imported
``record``              which test runs which lines, and how long it takes
``hunt``                tries mutants, each in a process of its own
``__main__``            ``python -m continuous_integration.mutants``
======================  ==============================================================

``survivors.json`` beside this file lists mutants that no test notices, with the reason
why none has to.
"""

// What can be done to targets, groups and instances: which actions each has now, what is asked first.

import { act, askFirst, tell } from "./dialogs.js";
import { counted } from "./format.js";

const PROCESSES = {
  launch: "Launch: start instances",
  terminate: "Terminate: end instances",
  scaling: "Scaling: change the desired number by policies",
};

const OUT_OF_USE = [
  { name: "reason", label: "Reason, for whoever looks later", type: "text" },
  { name: "force", label: "Even if no target that can serve is left", type: "check" },
];

const plainly = (path, body) => (button) => act(path, body, button);

/** Actions of a target: {label, hurts, run(button)}. */
export function targetActions(target) {
  const whom = { target: target.address, group: target.group };
  const name = target.instance ?? target.address;
  const actions = [];
  const out = target.state === "draining" || target.state === "disabled";
  if (!out) {
    actions.push({
      label: "Drain",
      run: () =>
        askFirst({
          title: `Drain ${name}`,
          text: [
            "New requests go to other targets at once. What is in flight ends in its own time.",
            ...standbyNote(target),
          ],
          fields: OUT_OF_USE,
          verb: "Drain",
          send: (values) => tell("targets/drain", { ...whom, ...values }),
        }),
    });
    actions.push({
      label: "Disable",
      hurts: true,
      run: () =>
        askFirst({
          title: `Disable ${name}`,
          text: [
            "It gets no new requests and no health checks until it is enabled again.",
            ...standbyNote(target),
          ],
          fields: OUT_OF_USE,
          verb: "Disable",
          hurts: true,
          send: (values) => tell("targets/disable", { ...whom, ...values }),
        }),
    });
  }
  if (target.state === "draining")
    actions.push({ label: "Undrain", run: plainly("targets/undrain", whom) });
  if (target.state === "disabled")
    actions.push({ label: "Enable", run: plainly("targets/enable", whom) });
  actions.push({
    label: "Weight",
    run: () =>
      askFirst({
        title: `Weight of ${name}`,
        text: "Its share of the group’s requests, beside the weights of the others.",
        fields: [
          {
            name: "weight",
            label: "Weight",
            type: "number",
            value: target.weight,
            min: 0,
            max: 999,
          },
          { name: "reset", label: "Back to the configured one", type: "check" },
        ],
        verb: "Set weight",
        send: ({ weight, reset }) =>
          tell("targets/weight", { ...whom, ...(reset ? { reset } : { weight }) }),
      }),
  });
  return actions;
}

const standbyNote = (target) =>
  target.instance ? ["It is an instance: this is its standby, and Return brings it back."] : [];

export function groupActions(group) {
  const path = `auto-scaling-groups/${encodeURIComponent(group.name)}/`;
  const refreshing = group.refresh !== null && group.refresh !== undefined;
  const undo = (action, label, text) => ({
    label,
    hurts: true,
    run: () =>
      askFirst({
        title: `${label}: ${group.name}`,
        text,
        verb: label,
        hurts: true,
        send: () => tell(`${path}refresh`, { action }),
      }),
  });
  return [
    {
      label: "Scale",
      run: () =>
        askFirst({
          title: `Scale ${group.name}`,
          text: `It has ${counted(group.in_service, "instance")} in service, and ${group.desired} desired. Who has to go is drained first. Its policies may change the number again.`,
          fields: [
            {
              name: "desired",
              label: "Desired instances",
              type: "number",
              value: group.desired,
              min: group.min,
              max: group.max,
              hint: `From ${group.min} to ${group.max}.`,
            },
          ],
          verb: "Scale",
          send: (values) => tell(`${path}scale`, values),
        }),
    },
    ...(refreshing
      ? [
          undo("cancel", "Cancel refresh", "What was replaced stays so; nothing more is replaced."),
          undo("rollback", "Roll back", "All go back to the template that was in force before."),
        ]
      : [
          {
            label: "Refresh",
            run: () =>
              askFirst({
                title: `Refresh ${group.name}`,
                text: `All of its instances (${group.in_service}) are replaced by new ones of the configured template: the new ones come first, and it goes back by itself where they answer worse.`,
                verb: "Refresh",
                send: () => tell(`${path}refresh`, {}),
              }),
          },
        ]),
    {
      label: "Suspend",
      run: () =>
        askFirst({
          title: `Suspend ${group.name}`,
          text: "A ticked process is suspended; one without a tick goes on.",
          fields: Object.entries(PROCESSES).map(([name, label]) => ({
            name,
            label,
            type: "check",
            value: group.suspended.includes(name),
          })),
          verb: "Apply",
          send: async (values) => {
            const names = Object.keys(PROCESSES);
            const was = (name) => group.suspended.includes(name);
            const more = names.filter((name) => values[name] && !was(name));
            const fewer = names.filter((name) => !values[name] && was(name));
            if (more.length) await tell(`${path}suspend`, { processes: more });
            if (fewer.length) await tell(`${path}resume`, { processes: fewer });
          },
        }),
    },
  ];
}

export function instanceActions(one) {
  const path = `instances/${encodeURIComponent(one.id)}/`;
  const actions = [];
  if (one.state === "in_service")
    actions.push({
      label: "Standby",
      run: () =>
        askFirst({
          title: `Put ${one.id} in standby`,
          text: "It is drained and kept running, out of service, so that you can look into it.",
          fields: [{ name: "replace", label: "Launch another one in its place", type: "check" }],
          verb: "Standby",
          send: (values) => tell(`${path}standby`, values),
        }),
    });
  if (one.state === "standby") actions.push({ label: "Return", run: plainly(`${path}return`, {}) });
  actions.push({
    label: one.protected ? "Unprotect" : "Protect",
    run: plainly(`${path}protect`, { on: !one.protected }),
  });
  if (one.state !== "terminating")
    actions.push({
      label: "Terminate",
      hurts: true,
      run: () =>
        askFirst({
          title: `Terminate ${one.id}`,
          text: "It is drained, then ended. Another one comes in its place first, unless the desired number is lowered.",
          fields: [{ name: "decrement", label: "Lower the desired number by one", type: "check" }],
          verb: "Terminate",
          hurts: true,
          send: (values) => tell(`${path}terminate`, values),
        }),
    });
  return actions;
}

export function reload() {
  askFirst({
    title: "Reload the configuration",
    text: "The file is read anew and checked first. If something in it is wrong, nothing changes.",
    verb: "Reload",
    send: () => tell("reload", {}),
  });
}
